package pkcs11_test

import (
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
	"cmkd/testenv/shim"
)

// TestLoginAnswers says which answers of C_Login end all tries: those after which
// the token may have counted one.
func TestLoginAnswers(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		for code, rvs := range map[backends.Code][]uint{
			backends.LoginFailed: {
				p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE, p11.CKR_PIN_EXPIRED, p11.CKR_PIN_LOCKED,
				p11.CKR_FUNCTION_FAILED, p11.CKR_ARGUMENTS_BAD, p11.CKR_DATA_INVALID, p11.CKR_DATA_LEN_RANGE,
				p11.CKR_FUNCTION_CANCELED, p11.CKR_FUNCTION_REJECTED, p11.CKR_ENCRYPTED_DATA_INVALID,
				0x1234, p11.CKR_VENDOR_DEFINED | 7,
			},
			backends.Lost: {
				p11.CKR_GENERAL_ERROR, p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_REMOVED, p11.CKR_TOKEN_NOT_PRESENT,
				p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_USER_PIN_NOT_INITIALIZED,
			},
		} {
			for _, rv := range rvs {
				control.Set("C_Login", shim.Fail(rv))
				_, err := pkcs11.Open(t.Context(), config(tok))
				if backends.CodeOf(err) != code {
					t.Errorf("C_Login answers 0x%X: %v, want %s", rv, err, code)
				}
			}
		}
		control.Clear("C_Login")
		open(t, tok)
	})
}
