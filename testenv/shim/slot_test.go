package shim_test

import (
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/testenv"
	"cmkd/testenv/shim"
)

// TestSlot takes the token out of its slot, limits its sessions and sets its flags.
func TestSlot(t *testing.T) {
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		m := shim.New(t, tok.Module)
		ctx, s := session(t, m, tok)
		slots, err := ctx.GetSlotList(true)
		if err != nil {
			t.Fatal(err)
		}
		random := func() uint { _, err := ctx.GenerateRandom(s, 8); return rv(err) }
		open := func() uint { _, err := ctx.OpenSession(slots[0], p11.CKF_SERIAL_SESSION); return rv(err) }
		expect := func(what string, got, want uint) {
			t.Helper()
			if got != want {
				t.Errorf("%s: CKR %#x, want %#x", what, got, want)
			}
		}

		m.Control.Sessions(2)
		expect("the second session of two", open(), 0)
		expect("the third session of two", open(), p11.CKR_SESSION_COUNT)
		m.Control.Sessions(0)
		expect("any number of sessions", open(), 0)

		m.Control.Flags(p11.CKF_USER_PIN_COUNT_LOW)
		if info, err := ctx.GetTokenInfo(slots[0]); err != nil || info.Flags&p11.CKF_USER_PIN_COUNT_LOW == 0 {
			t.Errorf("the flag is not set: %#x, %v", info.Flags, err)
		}

		m.Control.Away(true)
		expect("a session of a token that is away", random(), p11.CKR_DEVICE_REMOVED)
		expect("opening one", open(), p11.CKR_TOKEN_NOT_PRESENT)
		if there, err := ctx.GetSlotList(true); err != nil || len(there) != 0 {
			t.Errorf("slots with a token: %v, %v", there, err)
		}
		m.Control.Away(false)
		expect("a session from before", random(), p11.CKR_SESSION_HANDLE_INVALID)
		if err := ctx.Finalize(); err != nil {
			t.Fatal(err)
		}
		if err := ctx.Initialize(); err != nil {
			t.Fatal(err)
		}
		expect("a new session", open(), 0)
		m.Control.ClearAll()
	})
}
