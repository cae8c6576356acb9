package pkcs11

import (
	"context"

	"cmkd/backends"
)

// Encapsulate implements [backends.Encapsulator]. C_EncapsulateKey came with
// PKCS#11 3.2 and is not called by this package yet.
func (b *Asymmetric) Encapsulate(_ context.Context, in *backends.EncapsulateRequest) (*backends.EncapsulateAnswer, error) {
	_, err := b.purposeFor(&in.Key, backends.EncapsulateDecapsulate)
	return nil, err
}

// Decapsulate implements [backends.Encapsulator].
func (b *Asymmetric) Decapsulate(_ context.Context, in *backends.DecapsulateRequest) (*backends.DecapsulateAnswer, error) {
	_, err := b.purposeFor(&in.Key, backends.EncapsulateDecapsulate)
	return nil, err
}
