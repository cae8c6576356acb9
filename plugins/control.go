package plugins

import (
	"context"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// maxControl is how many bytes an answer of the control service may have: go-plugin
// takes 2 GiB of what a plugin sends.
const maxControl = 64 << 10

// dialOptions take from a plugin what go-plugin would let it do to the daemon beside
// the control service: its broker keeps what a plugin announces for seconds, and its
// copies of the standard streams are of any size. cmkd uses neither.
func dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithStreamInterceptor(func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ grpc.Streamer, _ ...grpc.CallOption) (grpc.ClientStream, error) {
			return ended{ctx}, nil
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxControl)),
		grpc.WithMaxHeaderListSize(maxControl),
	}
}

// ended is a stream on which nothing comes. It implements [grpc.ClientStream].
type ended struct{ ctx context.Context }

// Header implements [grpc.ClientStream].
func (ended) Header() (metadata.MD, error) { return nil, nil } //nolint:nilnil // there is none

// Trailer implements [grpc.ClientStream].
func (ended) Trailer() metadata.MD { return nil }

// CloseSend implements [grpc.ClientStream].
func (ended) CloseSend() error { return nil }

// Context implements [grpc.ClientStream].
func (e ended) Context() context.Context { return e.ctx }

// SendMsg implements [grpc.ClientStream].
func (ended) SendMsg(any) error { return nil }

// RecvMsg implements [grpc.ClientStream].
func (ended) RecvMsg(any) error { return io.EOF }
