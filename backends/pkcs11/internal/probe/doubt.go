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

// gone are those of troubled that no token answers for refusing.
var gone = map[uint]bool{
	p11.CKR_DEVICE_REMOVED: true, p11.CKR_TOKEN_NOT_PRESENT: true, p11.CKR_SESSION_CLOSED: true,
	p11.CKR_SESSION_HANDLE_INVALID: true, p11.CKR_CRYPTOKI_NOT_INITIALIZED: true,
}

// vague reports whether some tokens answer so for a missing mechanism, and others because
// they are in trouble. What a vendor's own code means nobody knows.
func vague(rv uint) bool {
	switch rv {
	case p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED, p11.CKR_FUNCTION_CANCELED, p11.CKR_DEVICE_MEMORY,
		p11.CKR_SESSION_COUNT, p11.CKR_OPERATION_ACTIVE, p11.CKR_OPERATION_NOT_INITIALIZED:
		return true
	}
	return rv >= p11.CKR_VENDOR_DEFINED
}

// probePauses are the times between the probes of a token that answers vaguely, for a passing fault to
// pass.
var probePauses = []time.Duration{100 * time.Millisecond, 400 * time.Millisecond}

// pause waits before the next run, counted from 1. It reports whether there is one.
func pause(ctx context.Context, run int) (bool, error) {
	if run > len(probePauses) {
		return false, nil
	}
	timer := time.NewTimer(probePauses[run-1])
	defer timer.Stop()
	select {
	case <-timer.C:
		return true, nil
	case <-ctx.Done():
		return false, token.Expired(ctx)
	}
}

// undoubted runs probe, again while the token answers vaguely. If the token is
// in trouble, the error is [backends.Lost].
func undoubted(ctx context.Context, t *token.Token, probe func() error) error {
	for run := 1; ; run++ {
		var trouble, doubts uint
		t.Module.Failed = func(rv uint) {
			switch {
			case troubled[rv]:
				trouble = rv
			case vague(rv):
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
		case doubts == 0:
			return err
		}
		if again, expired := pause(ctx, run); !again {
			return cmp.Or(expired, err)
		}
	}
}

// mayLack makes calls that tokens without the mechanism fail vaguely.
func (b *prober) mayLack(calls func()) {
	failed := b.s.Failed
	b.s.Failed = func(rv uint) {
		if failed != nil && !vague(rv) {
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

// maxRefused is how often calls are made that are to be refused, if they fail in another way.
const maxRefused = 3

// mustFail makes calls of which each is to be refused, and returns their error. If one failed
// in a way that may pass, they are made again: a refusal is what is to be seen. There are tokens that
// refuse so, always, but not by saying that the session or the token is gone.
func (b *prober) mustFail(calls func() error, good func() uint) error {
	for run := 1; ; run++ {
		var err error
		doubt, lost := b.failing(func() { err = calls() }, good)
		if err := cmp.Or(err, lost); err != nil || doubt == p11.CKR_OK {
			return err
		}
		if run < maxRefused {
			time.Sleep(probePauses[0])
			continue
		}
		if gone[doubt] {
			return &backends.Error{Code: backends.Lost, Message: "the token failed while it was probed" + token.NameOf(doubt), RV: doubt}
		}
		return nil
	}
}

// failing is toFail that returns why good had to decide, CKR_OK if it had not: an answer of a token that is
// gone, if there was one.
func (b *prober) failing(calls func(), good func() uint) (doubt uint, err error) {
	failed := b.s.Failed
	defer func() { b.s.Failed = failed }()
	b.s.Failed = func(rv uint) {
		if troubled[rv] || vague(rv) && doubt == p11.CKR_OK {
			doubt = rv
		}
	}
	calls()
	b.s.Failed = failed
	if doubt == p11.CKR_OK {
		return doubt, nil
	}
	if rv := good(); troubled[rv] || vague(rv) {
		return doubt, &backends.Error{Code: backends.Lost, Message: "probing the token with bad input: it fails with good input, too" + token.NameOf(rv), RV: rv}
	}
	return doubt, nil
}

// there asks what a key is that was made before.
func (b *prober) there(key cryptoki.Object) uint {
	var q cryptoki.Query
	q.AskULong(p11.CKA_CLASS)
	return b.s.GetAttributes(b.s.Handle, key, &q)
}
