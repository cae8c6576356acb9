package envelope

import (
	"context"
	"errors"
	"testing"
)

// TestDecryptGivenUp: who has given up is told that, and not that there is no key.
func TestDecryptGivenUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := new(KMS).Decrypt(ctx, []EncryptedDataKey{{Provider: ProviderKMS}}, 32, nil)
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrNoKey) {
		t.Error(err)
	}
}
