package kms

import (
	"cmkd/socket/kmsapi"
)

// methods are the operations: it implements [kmsapi.Methods], which says what each takes
// and answers. Adding an operation is one row in [keys.Actions] and one method here.
type methods struct{ *Service }

// bindOperations finds the method of each operation.
func bindOperations(s *Service) map[string]kmsapi.Method[*Call] {
	return kmsapi.Bind(methods{s}, func(c *Call, parameters []byte) {
		s.calls.describe(c, c.op.ReadOnly, c.region, parameters)
	})
}
