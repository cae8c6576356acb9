package token

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"

	"cmkd/backends"
	"cmkd/backends/loginrecord"
)

// chooseSlot finds the slot whose token has the configured label and serial
// number. Two of them are an error: the wrong one would be asked for keys.
func (t *Token) chooseSlot(cfg Config) error {
	slots, err := t.P11.GetSlotList(true)
	if err != nil {
		return failure("C_GetSlotList", err)
	}
	var serials []string
	for _, slot := range slots {
		info, err := t.P11.GetTokenInfo(slot)
		if err != nil {
			continue // another token's trouble; ours would be missed below
		}
		if !fits(cfg, info) {
			continue
		}
		serials = append(serials, Printable(info.SerialNumber))
		t.Slot, t.info = slot, info
	}
	switch len(serials) {
	case 0:
		return absent(cfg, t.P11)
	case 1:
		return nil
	default:
		return backends.Errorf(backends.Internal, "%d tokens with %s: choose one by its serial number, with serial in its [[token]] or --token-serial: %s",
			len(serials), wanted(cfg), strings.Join(serials, ", "))
	}
}

// wanted is how the configuration chooses the token.
func wanted(cfg Config) string {
	var by []string
	if cfg.TokenLabel != "" {
		by = append(by, fmt.Sprintf("label %q", cfg.TokenLabel))
	}
	if cfg.TokenSerial != "" {
		by = append(by, fmt.Sprintf("serial number %q", cfg.TokenSerial))
	}
	return strings.Join(by, " and ")
}

// absent is the error that no token fits, with those that there are.
func absent(cfg Config, ctx *p11.Ctx) *backends.Error {
	message := "no token with " + wanted(cfg) + " in module " + cfg.Module
	slots, err := ctx.GetSlotList(true)
	var there []string
	for _, slot := range slots {
		info, err := ctx.GetTokenInfo(slot)
		if err == nil && info.Flags&p11.CKF_TOKEN_INITIALIZED != 0 {
			there = append(there, fmt.Sprintf("%q (serial number %s)", info.Label, Printable(info.SerialNumber)))
		}
	}
	switch {
	case err != nil:
		message += fmt.Sprintf(": listing slots: %v", err)
	case len(there) == 0:
		message += ": it shows no initialised token; is it configured, and may this user read the token?"
	default:
		message += ": there are " + strings.Join(there, ", ")
	}
	return backends.Errorf(backends.Lost, "%s", message)
}

// noToken looks whether the module that could not be opened works, and has no
// token that fits. If so, that is the error; else it is nil.
func noToken(cfg Config) error {
	ctx := p11.New(cfg.Module)
	if ctx == nil {
		return nil
	}
	defer ctx.Destroy()
	if ctx.Initialize() != nil {
		return nil
	}
	defer ctx.Finalize() //nolint:errcheck // nothing was done that could be lost
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return nil
	}
	for _, slot := range slots {
		if info, err := ctx.GetTokenInfo(slot); err == nil && fits(cfg, info) {
			return nil
		}
	}
	return absent(cfg, ctx)
}

// fits reports whether the configuration chooses the token.
func fits(cfg Config, info p11.TokenInfo) bool {
	return (cfg.TokenLabel == "" || info.Label == cfg.TokenLabel) && (cfg.TokenSerial == "" || info.SerialNumber == cfg.TokenSerial)
}

// login tries the PIN once, and not at all when the token counts down to
// locking itself: with one wrong PIN in the configuration, the processes of
// three plugins would lock a token that takes three tries.
func (t *Token) login(ctx context.Context, cfg Config) error {
	memory, err := newLocked()
	if err != nil {
		return backends.Errorf(backends.Internal, "memory for the PIN: %v", err)
	}
	defer memory.free()
	pin, err := readPIN(memory, cfg.PINFile)
	if err != nil {
		return err
	}
	record, err := loginrecord.Open(ctx, cfg.LoginRecord, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer record.Close()
	some, this, err := record.Refused(pin)
	if err != nil {
		return err
	}
	if this {
		return backends.Errorf(backends.LoginFailed, "the token has refused the user PIN that is in %s: not tried again, so that it does not lock: put the right one there, and then run cmkctl reload, or what was run before if no cmkd runs (to try it all the same, remove %s before)", cfg.PINFile, cfg.LoginRecord)
	}
	// Another process may have tried since the slot was chosen.
	if t.info, err = t.P11.GetTokenInfo(t.Slot); err != nil {
		return failure("C_GetTokenInfo", err)
	}
	if err := mayLogin(t.info.Flags, some); err != nil {
		return err
	}
	state, err := loginrecord.StateOf(cfg.PINFile)
	if err != nil {
		return backends.Errorf(backends.LoginFailed, "%v", err)
	}
	if err := record.Begin(state); err != nil {
		return err
	}
	switch rv := t.Module.Login(t.Anchor, pin); {
	case rv == p11.CKR_OK:
		return record.Accept(state)
	case rv == p11.CKR_USER_ALREADY_LOGGED_IN: // which says nothing about this PIN
		return errors.Join(t.loggedIn(&Session{Module: t.Module, Handle: t.Anchor}), record.Pass())
	case uncounted[rv]:
		err := Failed("C_Login", rv)
		if rv == p11.CKR_USER_PIN_NOT_INITIALIZED {
			err.Message += ": the token has no user PIN yet (C_InitPIN, such as pkcs11-tool --init-pin): initialise it first"
		}
		return errors.Join(fmt.Errorf("logging in: %w", error(err)), record.Pass())
	default:
		message := "C_Login did not take the user PIN" + NameOf(rv)
		if rv == p11.CKR_PIN_INCORRECT {
			message += ": what is in " + cfg.PINFile + " is not the token's user PIN. A daemon tries another one that is put there; before cmkctl init or doctor does, log in by hand (pkcs11-tool --login --list-objects), which clears the token's count"
		}
		if t.info.Flags&p11.CKF_USER_PIN_INITIALIZED == 0 {
			message += " (the token says that it has no user PIN yet: C_InitPIN, such as pkcs11-tool --init-pin)"
		}
		if t.info.Flags&p11.CKF_PROTECTED_AUTHENTICATION_PATH != 0 {
			message += " (the token has a keypad or the like for it: cmkd needs one that takes its PIN from programs)"
		}
		err := &backends.Error{Code: backends.LoginFailed, Message: message, RV: rv}
		return errors.Join(fmt.Errorf("logging in: %w", error(err)), record.Refuse(pin))
	}
}

// uncounted are the answers of C_Login (PKCS#11 2.40 Base, section 5.6) that say
// nothing about the PIN, so that it may be tried again: the token or the session
// was not there, or nobody could log in now. After any other answer, those of
// vendors and of later versions among them, the token may have counted a wrong
// try: tokens answer CKR_FUNCTION_FAILED, CKR_ARGUMENTS_BAD or
// CKR_DATA_LEN_RANGE, too, to a PIN that they do not like.
//
// CKR_GENERAL_ERROR and CKR_DEVICE_ERROR are how network HSMs answer while they
// cannot be reached. If a token has counted such a try all the same, its flags
// say so, and mayLogin refuses the next one.
var uncounted = map[uint]bool{
	p11.CKR_HOST_MEMORY: true, p11.CKR_SLOT_ID_INVALID: true, p11.CKR_GENERAL_ERROR: true,
	p11.CKR_DEVICE_ERROR: true, p11.CKR_DEVICE_MEMORY: true, p11.CKR_DEVICE_REMOVED: true,
	p11.CKR_FUNCTION_NOT_SUPPORTED: true, p11.CKR_OPERATION_ACTIVE: true, p11.CKR_SESSION_CLOSED: true,
	p11.CKR_SESSION_HANDLE_INVALID: true, p11.CKR_SESSION_READ_ONLY_EXISTS: true,
	p11.CKR_TOKEN_NOT_PRESENT: true, p11.CKR_TOKEN_NOT_RECOGNIZED: true,
	// SoftHSM2 answers this if the module was initialised while another process
	// was logging in.
	p11.CKR_USER_PIN_NOT_INITIALIZED: true, p11.CKR_USER_TYPE_INVALID: true,
	p11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN: true, p11.CKR_USER_TOO_MANY_TYPES: true,
	p11.CKR_CRYPTOKI_NOT_INITIALIZED: true,
}

// mayLogin looks at the flags of CK_TOKEN_INFO (PKCS#11 v2.40 section 3.2).
// changed: the PIN is another one than that which the token refused.
func mayLogin(flags uint, changed bool) error {
	switch {
	case flags&p11.CKF_USER_PIN_LOCKED != 0:
		return backends.Errorf(backends.LoginFailed, "the token's user PIN is locked: the security officer sets it again (C_InitPIN, or the vendor's tool), then run cmkctl reload")
	case flags&p11.CKF_USER_PIN_FINAL_TRY != 0:
		return backends.Errorf(backends.LoginFailed, "the token's user PIN has one try left: not tried; log in once by hand (pkcs11-tool --login --list-objects), then run cmkctl reload")
	case flags&p11.CKF_USER_PIN_COUNT_LOW != 0 && !changed:
		return backends.Errorf(backends.LoginFailed, "a wrong user PIN was given to the token last time: not tried again, so that it does not lock; a login by hand (pkcs11-tool --login --list-objects) clears its count")
	}
	return nil
}

// readPIN reads the PIN into memory, which the caller wipes.
func readPIN(memory *locked, file string) ([]byte, error) {
	text, err := memory.read(file)
	if err != nil {
		return nil, backends.Errorf(backends.LoginFailed, "reading the PIN: %v", err)
	}
	pin := bytes.TrimRight(text, "\r\n")
	switch {
	case len(pin) == 0:
		err = backends.Errorf(backends.LoginFailed, "the PIN file %s is empty", file)
	case bytes.HasPrefix(pin, []byte("\xef\xbb\xbf")):
		err = backends.Errorf(backends.LoginFailed, "the PIN file %s begins with a byte order mark: not tried", file)
	case bytes.ContainsFunc(pin, unicode.IsControl):
		err = backends.Errorf(backends.LoginFailed, "the PIN in %s has a control character in it, such as a tab or a second line: not tried", file)
	}
	if err != nil {
		return nil, err
	}
	return pin, nil
}
