package token

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
)

// TestCodes says what a caller can do about the return values that tokens give
// in practice.
func TestCodes(t *testing.T) {
	t.Parallel()
	for rv, want := range map[uint]backends.Code{
		p11.CKR_GENERAL_ERROR:            backends.Lost,
		p11.CKR_DEVICE_ERROR:             backends.Lost,
		p11.CKR_DEVICE_REMOVED:           backends.Lost,
		p11.CKR_TOKEN_NOT_PRESENT:        backends.Lost,
		p11.CKR_SESSION_HANDLE_INVALID:   backends.Lost,
		p11.CKR_OBJECT_HANDLE_INVALID:    backends.Lost,
		p11.CKR_KEY_HANDLE_INVALID:       backends.Lost,
		p11.CKR_USER_NOT_LOGGED_IN:       backends.Lost,
		p11.CKR_CRYPTOKI_NOT_INITIALIZED: backends.Lost,
		p11.CKR_OPERATION_ACTIVE:         backends.Lost,
		p11.CKR_PIN_INCORRECT:            backends.LoginFailed,
		p11.CKR_PIN_LOCKED:               backends.LoginFailed,
		p11.CKR_DEVICE_MEMORY:            backends.Busy,
		p11.CKR_HOST_MEMORY:              backends.Busy,
		p11.CKR_SESSION_COUNT:            backends.Busy,
		p11.CKR_TOKEN_WRITE_PROTECTED:    backends.TokenReadOnly,
		p11.CKR_SESSION_READ_ONLY:        backends.TokenReadOnly,
		p11.CKR_MECHANISM_INVALID:        backends.Unsupported,
		p11.CKR_FUNCTION_NOT_SUPPORTED:   backends.Unsupported,
		p11.CKR_ENCRYPTED_DATA_INVALID:   backends.InvalidCiphertext,
		0x42:                             backends.InvalidCiphertext,
		p11.CKR_ARGUMENTS_BAD:            backends.Internal,
		p11.CKR_VENDOR_DEFINED + 7:       backends.Internal,
	} {
		for _, err := range []error{
			Failed("C_X", rv),
			failure("C_X", p11.Error(rv)),
			fmt.Errorf("wrapped: %w", failure("C_X", fmt.Errorf("wrapped: %w", p11.Error(rv)))),
		} {
			if backends.CodeOf(err) != want || RVOf(err) != rv {
				t.Errorf("CKR 0x%X: %v, want the code %s", rv, err, want)
			}
		}
	}
	for rv, want := range map[uint]string{
		p11.CKR_GENERAL_ERROR:      "Lost: C_X: CKR_GENERAL_ERROR (CKR 0x5)",
		p11.CKR_VENDOR_DEFINED + 7: "Internal: C_X (CKR 0x80000007)",
	} {
		if got := Failed("C_X", rv).Error(); got != want {
			t.Errorf("an operator reads %q, want %q", got, want)
		}
	}
	if err := failure("C_X", nil); err != nil {
		t.Errorf("no failure is %v", err)
	}
	if err := failure("C_X", errors.New("text")); backends.CodeOf(err) != backends.Lost || RVOf(err) != 0 {
		t.Errorf("a failure outside the module: %v", err)
	}
}

// TestRecoded: an error that gets another code says once what the module returned, and nothing of
// the code before.
func TestRecoded(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"TokenFull: C_CreateObject: CKR_DEVICE_MEMORY (CKR 0x31)":              Failed("C_CreateObject", p11.CKR_DEVICE_MEMORY),
		"TokenFull: making a key: C_CreateObject: CKR_GENERAL_ERROR (CKR 0x5)": fmt.Errorf("making a key: %w", error(Failed("C_CreateObject", p11.CKR_GENERAL_ERROR))),
		"TokenFull: text": errors.New("text"),
	} {
		if got := recoded(backends.TokenFull, err).Error(); got != want {
			t.Errorf("an operator reads %q, want %q", got, want)
		}
	}
}

func TestExpired(t *testing.T) {
	t.Parallel()
	late, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		want backends.Code
	}{"live": {t.Context(), ""}, "late": {late, backends.Timeout}, "gone": {gone, backends.Internal}} {
		if err := Expired(c.ctx); backends.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want the code %q", name, err, c.want)
		}
	}
}
