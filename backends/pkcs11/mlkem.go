package pkcs11

import (
	"context"

	"cmkd/backends"
)

// Encapsulate implements [backends.Encapsulator]: it refuses. ML-KEM needs
// C_EncapsulateKey and C_DecapsulateKey, which are not in the function list of
// PKCS#11 2.40 but in the interface of 3.2; no token that could be tested with
// has them, so keys of these specs are not made on any token.
func (b *Asymmetric) Encapsulate(_ context.Context, in *backends.EncapsulateRequest) (*backends.EncapsulateAnswer, error) {
	_, err := b.purposeFor(&in.Key, backends.EncapsulateDecapsulate)
	return nil, err
}

// Decapsulate implements [backends.Encapsulator].
func (b *Asymmetric) Decapsulate(_ context.Context, in *backends.DecapsulateRequest) (*backends.DecapsulateAnswer, error) {
	_, err := b.purposeFor(&in.Key, backends.EncapsulateDecapsulate)
	return nil, err
}
