package token

import (
	"errors"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// TestBlame calls what fails as often as the table says, with input that is good
// or bad.
func TestBlame(t *testing.T) {
	t.Parallel()
	bad := InvalidCiphertext()
	device, general := Failed("C_X", p11.CKR_DEVICE_ERROR), Failed("C_X", p11.CKR_GENERAL_ERROR)
	s := &Session{}
	begun := s.CheckInput("C_X", cryptoki.Result{RV: p11.CKR_DEVICE_ERROR, Init: true})
	for name, c := range map[string]struct {
		calls []error // what the call answers, one after the other
		known error   // what the same with known input answers
		want  backends.Code
		made  int // calls
	}{
		"good":                         {[]error{nil}, nil, "", 1},
		"bad input":                    {[]error{device, device}, nil, backends.InvalidCiphertext, 2},
		"bad input, said otherwise":    {[]error{general, device}, nil, backends.InvalidCiphertext, 2},
		"bad input, clearly":           {[]error{bad, bad}, nil, backends.InvalidCiphertext, 1},
		"a fault that passes":          {[]error{general, nil}, nil, "", 2},
		"a broken token":               {[]error{device}, device, backends.Lost, 1},
		"no time to find out":          {[]error{device}, backends.Errorf(backends.Timeout, "late"), backends.Timeout, 1},
		"no memory to find out":        {[]error{device}, Failed("C_X", p11.CKR_HOST_MEMORY), backends.Busy, 1},
		"before the input was seen":    {[]error{begun}, nil, backends.Lost, 1},
		"a session that is gone":       {[]error{Failed("C_X", p11.CKR_SESSION_HANDLE_INVALID)}, nil, backends.Lost, 1},
		"no room":                      {[]error{Failed("C_X", p11.CKR_DEVICE_MEMORY)}, nil, backends.Busy, 1},
		"breaks at the second call":    {[]error{general, Failed("C_X", p11.CKR_DEVICE_REMOVED)}, nil, backends.Lost, 2},
		"refused without a PKCS error": {[]error{backends.Errorf(backends.KeyMissing, "none")}, nil, backends.KeyMissing, 1},
	} {
		made := 0
		err := Blame(func() error { made++; return c.calls[made-1] }, func() error { return c.known }, bad)
		if backends.CodeOf(err) != c.want || made != c.made {
			t.Errorf("%s: %v after %d calls, want %q after %d", name, err, made, c.want, c.made)
		}
	}
	if !errors.Is(begun, &backends.Error{Code: backends.Lost}) {
		t.Errorf("the code of an Init half is hidden: %v", begun)
	}
}
