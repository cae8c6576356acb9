package pkcs11

import (
	"time"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/token"
)

// RawCalls returns AES-GCM and HMAC-SHA-256 with a key as bare calls of the
// module, for benchmarks to compare with. They return the CK_RV.
func RawCalls(t *Token, id backends.KeyID) (encrypt func(plaintext, aad []byte) uint, sign func(message []byte) uint) {
	key := t.Index.Get(token.Ref{ID: id, Class: p11.CKO_SECRET_KEY}).Handle
	out, iv := make([]byte, 8192), make([]byte, token.IVLength)
	encrypt = func(plaintext, aad []byte) uint {
		return t.Module.EncryptGCM(t.Anchor, key, iv, aad, plaintext, out).RV
	}
	sign = func(message []byte) uint {
		return t.Module.Sign(t.Anchor, key, cryptoki.Mechanism{Type: p11.CKM_SHA256_HMAC}, message, out).RV
	}
	return encrypt, sign
}

// AskAgain asks the token for further sessions now, instead of in a while.
func AskAgain(t *Token) {
	t.Sessions.Mu.Lock()
	defer t.Sessions.Mu.Unlock()
	t.Sessions.Again = time.Time{}
}

// Printable is what is said of what a module says.
var Printable = token.Printable
