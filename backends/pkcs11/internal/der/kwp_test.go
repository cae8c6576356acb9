package der

import (
	"bytes"
	"crypto/rand"
	"testing"

	"github.com/tink-crypto/tink-go/v2/kwp/subtle"
)

// TestKWPForgets: the key is in the key schedule while it is used, and not after that.
func TestKWPForgets(t *testing.T) {
	t.Parallel()
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails: crypto/rand
	var memory []byte
	err := WithKWP(key, func(k *subtle.KWP) error {
		if memory = schedule(k); !bytes.Contains(memory, key) {
			t.Error("the key is not where it is to be wiped")
		}
		wrapped, err := k.Wrap(make([]byte, 40))
		if err != nil {
			return err
		}
		plain, err := k.Unwrap(wrapped)
		if err == nil && !bytes.Equal(plain, make([]byte, 40)) {
			t.Error("it does not unwrap what it wraps")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(memory, []byte{0}) != len(memory) {
		t.Error("the key schedule is still there")
	}
}
