package kms

import (
	"cmkd/daemon/journal"
	"cmkd/socket/kmsapi"
)

// methods are the operations: it implements [kmsapi.Methods], which says what each takes
// and answers. Adding an operation is one row in [keys.Actions] and one method here.
type methods struct{ *Service }

// bindOperations finds the method of each operation.
func bindOperations(s *Service) map[string]kmsapi.Method[*journal.Call] {
	return kmsapi.Bind(methods{s}, func(c *journal.Call, parameters []byte) {
		s.DescribeCall(c, c.Op.ReadOnly, c.Region, parameters)
	})
}
