package cli

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"
)

// endsFirst is a pipe whose producer is told to end before its reader is.
type endsFirst struct{ signal func() }

func (e endsFirst) Read([]byte) (int, error) {
	time.AfterFunc(10*time.Millisecond, e.signal)
	return 0, io.EOF
}

// TestTheEndOfAPipeIsDoubted has a signal come after the end that it made.
func TestTheEndOfAPipeIsDoubted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		regular, doubt bool
		want           error
	}{
		{false, true, context.Canceled},
		{false, false, nil}, // an envelope says itself where it ends
		{true, true, nil},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		in := &Input{Src: endsFirst{cancel}, regular: tt.regular}
		if _, err := io.ReadAll(in.Until(ctx, tt.doubt)); !errors.Is(err, tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
		cancel()
	}
}

// TestAReadThatWaitsEnds has a signal come while nothing does.
func TestAReadThatWaitsEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	silent, w := io.Pipe()
	defer w.Close()
	r := (&Input{Src: silent}).Until(ctx, true)
	cancel()
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
