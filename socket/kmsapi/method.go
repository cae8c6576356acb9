package kmsapi

import "context"

// Method answers one call of an operation: it decodes and validates the body, and runs the
// method of [Methods].
type Method[C any] func(ctx context.Context, c C, body []byte) (Output, error)

// request is a pointer to the input of an operation.
type request[In any] interface {
	*In
	Input
	// AppendParameters appends what the audit trail may know of the request, as JSON.
	AppendParameters(b []byte) []byte
}

// response is a pointer to the output of an operation.
type response[Out any] interface {
	*Out
	Output
}

// bind makes the Method of one method. decoded is told the parameters of a valid request,
// before the method runs.
func bind[C, In, Out any, PIn request[In], POut response[Out]](decoded func(c C, parameters []byte), m func(context.Context, C, *In) (*Out, error)) Method[C] {
	return func(ctx context.Context, c C, body []byte) (Output, error) {
		memory := new(struct { // one piece
			in         In
			parameters [256]byte
		})
		in := PIn(&memory.in)
		defer in.Wipe()
		if err := in.Decode(body); err != nil {
			return nil, err
		}
		decoded(c, in.AppendParameters(memory.parameters[:0]))
		out, err := m(ctx, c, (*In)(in))
		if err != nil {
			return nil, err
		}
		return POut(out), nil
	}
}
