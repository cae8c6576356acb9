package pkcs11

import (
	"time"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// RawCalls returns AES-GCM and HMAC-SHA-256 with a key as bare calls of the
// module, for benchmarks to compare with. They return the CK_RV.
func RawCalls(t *Token, id backends.KeyID) (encrypt func(plaintext, aad []byte) uint, sign func(message []byte) uint) {
	key := t.index.get(ref{id, p11.CKO_SECRET_KEY}).handle
	out, iv := make([]byte, 8192), make([]byte, ivLength)
	encrypt = func(plaintext, aad []byte) uint {
		return t.module.EncryptGCM(t.anchor, key, iv, aad, plaintext, out).RV
	}
	sign = func(message []byte) uint {
		return t.module.Sign(t.anchor, key, cryptoki.Mechanism{Type: p11.CKM_SHA256_HMAC}, message, out).RV
	}
	return encrypt, sign
}

// AskAgain asks the token for further sessions now, instead of in a while.
func AskAgain(t *Token) {
	t.sessions.mu.Lock()
	defer t.sessions.mu.Unlock()
	t.sessions.again = time.Time{}
}

// Printable is what is said of what a module says.
var Printable = printable
