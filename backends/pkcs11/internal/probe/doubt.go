package probe

import (
	"cmp"
	"context"
	"time"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/token"
)

// A token that fails for a moment while it is probed must not be taken for one
// that lacks a mechanism: for as long as the process lives, its keys would be
// refused.

// troubled are the return values that no mechanism answers for being missing:
// the token, the session or the login is gone.
var troubled = map[uint]bool{
	p11.CKR_HOST_MEMORY: true, p11.CKR_DEVICE_ERROR: true, p11.CKR_DEVICE_REMOVED: true,
	p11.CKR_TOKEN_NOT_PRESENT: true, p11.CKR_SESSION_CLOSED: true, p11.CKR_SESSION_HANDLE_INVALID: true,
	p11.CKR_USER_NOT_LOGGED_IN: true, p11.CKR_CRYPTOKI_NOT_INITIALIZED: true,
}

// vague are those that some tokens answer for a missing mechanism, and others
// because they are in trouble.
var vague = map[uint]bool{
	p11.CKR_GENERAL_ERROR: true, p11.CKR_FUNCTION_FAILED: true, p11.CKR_DEVICE_MEMORY: true,
}

const (
	// maxProbes is how often a token is probed that answers vaguely.
	maxProbes = 3
	// probePause is the time between, enough for a passing fault to pass.
	probePause = 100 * time.Millisecond
)

// undoubted runs probe, again while the token answers vaguely. If the token is
// in trouble, the error is [backends.Lost].
func undoubted(ctx context.Context, t *token.Token, probe func() error) error {
	for run := 1; ; run++ {
		var trouble, doubts uint
		t.Module.Failed = func(rv uint) {
			switch {
			case troubled[rv]:
				trouble = rv
			case vague[rv]:
				doubts++
			}
		}
		err := probe()
		t.Module.Failed = nil
		switch {
		case backends.CodeOf(err) == backends.KeyUnsafe:
			return err
		case trouble != 0:
			return &backends.Error{Code: backends.Lost, Message: "the token failed while it was probed" + token.NameOf(trouble), RV: trouble}
		case doubts == 0 || run == maxProbes:
			return err
		}
		timer := time.NewTimer(probePause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return token.Expired(ctx)
		}
	}
}

// mayLack makes calls that tokens without the mechanism fail vaguely.
func (b *prober) mayLack(calls func()) {
	failed := b.s.Failed
	b.s.Failed = func(rv uint) {
		if failed != nil && !vague[rv] {
			failed(rv)
		}
	}
	defer func() { b.s.Failed = failed }()
	calls()
}

// toFail makes calls that are to fail, in whatever way: tokens answer bad input with
// CKR_DEVICE_ERROR, too. If they failed as those of a lost token may, good makes one that
// succeeds in a token that is not, and returns its CK_RV: that decides.
func (b *prober) toFail(calls func(), good func() uint) error {
	_, err := b.failing(calls, good)
	return err
}

// mustFail makes calls of which each is to be refused, and returns their error. If one failed
// in a way that may pass, they are made again: a refusal is what is to be seen.
func (b *prober) mustFail(calls func() error, good func() uint) error {
	for again := false; ; again = true {
		var err error
		doubt, lost := b.failing(func() { err = calls() }, good)
		if err := cmp.Or(err, lost); err != nil || !doubt || again {
			return err
		}
	}
}

// failing is toFail that reports whether good had to decide.
func (b *prober) failing(calls func(), good func() uint) (doubt bool, err error) {
	failed := b.s.Failed
	defer func() { b.s.Failed = failed }()
	b.s.Failed = func(rv uint) { doubt = doubt || troubled[rv] || vague[rv] }
	calls()
	b.s.Failed = failed
	if !doubt {
		return false, nil
	}
	if rv := good(); troubled[rv] || vague[rv] {
		return true, &backends.Error{Code: backends.Lost, Message: "probing the token with bad input: it fails with good input, too" + token.NameOf(rv), RV: rv}
	}
	return true, nil
}

// there asks what a key is that was made before.
func (b *prober) there(key cryptoki.Object) uint {
	var q cryptoki.Query
	q.AskULong(p11.CKA_CLASS)
	return b.s.GetAttributes(b.s.Handle, key, &q)
}
