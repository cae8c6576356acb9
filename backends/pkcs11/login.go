package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
)

// chooseSlot finds the slot whose token has the configured label and serial
// number. Two of them are an error: the wrong one would be asked for keys.
func (t *Token) chooseSlot(cfg Config) error {
	slots, err := t.ctx.GetSlotList(true)
	if err != nil {
		return failure("C_GetSlotList", err)
	}
	found := 0
	for _, slot := range slots {
		info, err := t.ctx.GetTokenInfo(slot)
		if err != nil {
			continue // another token's trouble; ours would be missed below
		}
		if cfg.TokenLabel != "" && info.Label != cfg.TokenLabel ||
			cfg.TokenSerial != "" && info.SerialNumber != cfg.TokenSerial {
			continue
		}
		found++
		t.slot, t.info = slot, info
	}
	what := fmt.Sprintf("label %q, serial number %q", cfg.TokenLabel, cfg.TokenSerial)
	switch found {
	case 0:
		return &backends.Error{Code: backends.Lost, Message: "no token with " + what, RV: p11.CKR_TOKEN_NOT_PRESENT}
	case 1:
		return nil
	default:
		return backends.Errorf(backends.Internal, "%d tokens with %s: choose by serial number", found, what)
	}
}

// login tries the PIN once, and not at all when the token counts down to
// locking itself: with one wrong PIN in the configuration, the processes of
// three plugins would lock a token that takes three tries.
func (t *Token) login(ctx context.Context, cfg Config) error {
	pin, err := readPIN(cfg.PINFile)
	defer clear(pin)
	if err != nil {
		return err
	}
	record, err := openLoginRecord(ctx, cfg.LoginRecord)
	if err != nil {
		return err
	}
	defer record.close()
	some, this, err := record.refused(pin)
	if err != nil {
		return err
	}
	if this {
		return backends.Errorf(backends.LoginFailed, "the token has refused the user PIN that is in %s: not tried again, so that it does not lock (to try it all the same, remove %s)", cfg.PINFile, cfg.LoginRecord)
	}
	// Another process may have tried since the slot was chosen.
	if t.info, err = t.ctx.GetTokenInfo(t.slot); err != nil {
		return failure("C_GetTokenInfo", err)
	}
	if err := mayLogin(t.info.Flags, some); err != nil {
		return err
	}
	switch rv := t.module.Login(t.anchor, pin); rv {
	case p11.CKR_OK, p11.CKR_USER_ALREADY_LOGGED_IN:
		return record.accept()
	default:
		err := fmt.Errorf("logging in: %w", error(failed("C_Login", rv)))
		if backends.CodeOf(err) == backends.LoginFailed {
			err = errors.Join(err, record.refuse(pin))
		}
		return err
	}
}

// mayLogin looks at the flags of CK_TOKEN_INFO (PKCS#11 v2.40 section 3.2).
// changed: the PIN is another one than that which the token refused.
func mayLogin(flags uint, changed bool) error {
	switch {
	case flags&p11.CKF_USER_PIN_LOCKED != 0:
		return backends.Errorf(backends.LoginFailed, "the token's user PIN is locked")
	case flags&p11.CKF_USER_PIN_FINAL_TRY != 0:
		return backends.Errorf(backends.LoginFailed, "the token's user PIN has one try left: not tried")
	case flags&p11.CKF_USER_PIN_COUNT_LOW != 0 && !changed:
		return backends.Errorf(backends.LoginFailed, "a wrong user PIN was given to the token last time: not tried again, so that it does not lock; a login by hand (pkcs11-tool --login --list-objects) clears its count")
	}
	return nil
}

// readPIN reads the PIN, which the caller wipes.
func readPIN(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, backends.Errorf(backends.LoginFailed, "reading the PIN: %v", err)
	}
	pin := bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	if len(pin) == 0 {
		return nil, backends.Errorf(backends.LoginFailed, "the PIN file %s is empty", file)
	}
	return pin, nil
}
