package client

import (
	"context"
	"io"

	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// PlainBody is an API option of the SDK against an error that a server which answers
// within microseconds can bring about: "use of closed network connection" in the
// middle of an answer. [Config] has it.
//
// The SDK closes the body of a request when the answer begins. The type that it gives
// to bodies then returns io.EOF from WriteTo, where [io.WriterTo] asks for nil. If
// net/http looks at that moment whether the body is longer than announced, it takes
// this for a failure of the request and closes the connection. The option hides WriteTo.
func PlainBody(stack *middleware.Stack) error {
	return stack.Serialize.Add(middleware.SerializeMiddlewareFunc("cmkdPlainBody",
		func(ctx context.Context, in middleware.SerializeInput, next middleware.SerializeHandler) (middleware.SerializeOutput, middleware.Metadata, error) {
			req, ok := in.Request.(*smithyhttp.Request)
			if !ok {
				return next.HandleSerialize(ctx, in)
			}
			if body, ok := req.GetStream().(io.ReadSeeker); ok {
				plain, err := req.SetStream(struct{ io.ReadSeeker }{body})
				if err != nil {
					return middleware.SerializeOutput{}, middleware.Metadata{}, err
				}
				in.Request = plain
			}
			return next.HandleSerialize(ctx, in)
		}), middleware.After)
}
