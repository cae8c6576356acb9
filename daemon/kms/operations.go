package kms

import (
	"cmkd/daemon/keys"
	"cmkd/socket/kmsapi"
)

// operation is one of the API: its row in the table of actions, and its method.
type operation struct {
	*keys.Action
	serve kmsapi.Method[*Call]
}

// methods are the operations: it implements [kmsapi.Methods], which says what each takes
// and answers. Adding an operation is one row in [keys.Actions] and one method here.
type methods struct{ *Service }

// bindOperations finds the row and the method of each operation.
func bindOperations(s *Service) map[string]*operation {
	bound := kmsapi.Bind(methods{s}, func(c *Call, parameters []byte) {
		s.calls.describe(c, c.op.ReadOnly, c.region, parameters)
	})
	operations := make(map[string]*operation, len(bound))
	for name, serve := range bound {
		operations[name] = &operation{keys.ActionOf(name), serve}
	}
	return operations
}
