package plugins

import (
	"bytes"
	"context"

	"cmkd/backends"
	"cmkd/plugins/internal/stream"
)

// repeats says whether the call may find in the token what it made before: a process
// was lost with it, or was spent.
func (a *attempt) repeats() bool { return a.lost+a.spent > 0 && a.row.MakesKey() }

// send makes the call on a process. One that makes a key again has the process look
// through the token first. Backends know the token from its opening, and after a
// reload, or when a process that has grown is swapped, the next process opens it while
// the last one is still at work: the key may have come since.
func (a *attempt) send(ctx context.Context, p *process) error {
	if a.repeats() {
		var request bytes.Buffer
		if err := stream.Encoding.MarshalToBuffer(&backends.ListKeysRequest{}, &request); err != nil {
			return backends.Errorf(backends.Internal, "the %s request does not encode", stream.ListKeys.Name)
		}
		if err := p.call(ctx, stream.ListKeys.Row, a.flow, request.Bytes(), new(backends.ListKeysAnswer)); err != nil {
			return err
		}
	}
	return p.call(ctx, a.row, a.flow, a.request, a.out)
}
