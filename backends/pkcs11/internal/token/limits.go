package token

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// A token may be in trouble and not dead: full, write-protected, short of
// sessions. It goes on with what it still does, and says what it does not.

// limits are what the token does not do now. Each is logged when it begins and
// when it ends.
type limits struct {
	mu    sync.Mutex // guards texts
	texts map[limit]string
}

// limit is something that a token does not do.
type limit int

const (
	fewSessions limit = iota
	noObjects
	writeProtected
)

// protected is the limit of a token that says of itself that it is write-protected.
const protected = "no objects are made, it is write-protected (CKF_WRITE_PROTECTED)"

// begin notes a limit. It is what text says.
func (l *limits) begin(which limit, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.texts[which]; !ok {
		slog.Warn("the token is limited", "limit", text)
	}
	if l.texts == nil {
		l.texts = map[limit]string{}
	}
	l.texts[which] = text
}

// end notes that there is no such limit, or none any more.
func (l *limits) end(which limit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if text, ok := l.texts[which]; ok {
		slog.Info("the token is no longer limited", "limit", text)
		delete(l.texts, which)
	}
}

// has reports whether there is the limit.
func (l *limits) has(which limit) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.texts[which]
	return ok
}

// now lists the limits.
func (l *limits) now() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for which := fewSessions; which <= writeProtected; which++ {
		if text, ok := l.texts[which]; ok {
			all = append(all, text)
		}
	}
	return all
}

// Refusal is the error of a call that was to make an object that stays.
func (t *Token) Refusal(err error) error {
	e := recoded(backends.CodeOf(err), err)
	switch {
	case e.RV == p11.CKR_DEVICE_MEMORY:
		e.Code = backends.TokenFull
		t.limits.begin(noObjects, "no room for another object (CKR_DEVICE_MEMORY)")
	case e.Code == backends.TokenReadOnly:
		t.limits.begin(writeProtected, "no objects are made, it is write-protected ("+RVText(e.RV)+")")
	default:
		return err
	}
	return e
}

// Persist makes an object that stays, by calling do. If that fails in a way that
// may mean a token without room, or one that is lost, the token is asked for
// something that needs no object, and do called once more: what it has made the
// first time it finds. SoftHSM2 answers CKR_GENERAL_ERROR if it cannot write, and
// others CKR_DEVICE_ERROR. Before the token counts as full, and before do is called
// once more after an answer of lost tokens, judge makes an object of the same kind that
// goes with its session; it returns the error if the token is not full. A token that is
// slow has ended what it was asked for first by then.
//
// One that has lost touch with the module may not have, whether that answers CKR_DEVICE_ERROR,
// CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED or a code of the vendor's own then: so do is told, and the error says, if an attempt
// was answered so.
func Persist[A any](ctx context.Context, t *Token, do func(unsure bool) (A, error), judge func(failed error) error) (answer A, err error) {
	judged, unsure := false, false
	defer func() {
		err = backends.DoubtIf(unsure || vagueCreation(err), err) // also if the token was not sound behind it
	}()
	answer, err = do(false)
	for attempt := 1; MaybeNotKept(err) && t.sound(ctx); attempt++ {
		unsure = true
		if !judged && (attempt > 1 || !MaybeNoRoom(err)) {
			if lost := judge(err); lost != nil {
				return answer, lost
			}
			judged = true
		}
		if attempt > 1 {
			t.limits.begin(noObjects, fmt.Sprintf("no object is made that stays (%s): it may be full or write-protected", RVText(RVOf(err))))
			full := recoded(backends.TokenFull, err)
			full.Message += ": it makes no object that stays, and may be full or write-protected"
			return answer, full
		}
		answer, err = do(unsure)
	}
	if err == nil {
		t.limits.end(noObjects)
		t.limits.end(writeProtected)
	}
	return answer, err
}

// MaybeNotKept reports whether some token answers so when it cannot keep another
// object: as if it were lost.
func MaybeNotKept(err error) bool {
	return MaybeNoRoom(err) || backends.CodeOf(err) == backends.Lost && RVOf(err) != p11.CKR_OK && !StaleHandle(err)
}

// Verdict is the error of an object that was to stay: failed, if the token is lost, since it
// does not make one of the same kind that goes with its session either (passing); nil, if it is
// full. Answers that are a full token's are believed without that.
func Verdict(failed, passing error) error {
	if passing != nil && !MaybeNoRoom(failed) {
		return failed
	}
	return nil
}

// MaybeNoRoom reports whether some tokens answer so when they cannot keep another
// object.
func MaybeNoRoom(err error) bool {
	rv := RVOf(err)
	return rv == p11.CKR_GENERAL_ERROR || rv == p11.CKR_FUNCTION_FAILED
}

// vagueCreation reports whether the answer leaves open if an object was made: it is one that lost
// tokens give, too, or one of a vendor's own, which may mean anything.
func vagueCreation(err error) bool { return MaybeNoRoom(err) || RVOf(err) >= p11.CKR_VENDOR_DEFINED }

// sound reports whether the token does what needs no new object.
func (t *Token) sound(ctx context.Context) bool {
	return t.WithSession(ctx, t.Does) == nil
}

// Does fails unless the token does what needs no new object.
func (t *Token) Does(s *Session) error {
	if err := t.ProveObjects(s, Ref{}); err != nil {
		return err
	}
	return s.Check("C_GenerateRandom", s.GenerateRandom(s.Handle, make([]byte, 8)))
}

// openSession opens a session, a read-only one if the token has no others now.
func (t *Token) openSession() (h cryptoki.Session, readOnly bool, err error) {
	opened, err := t.P11.OpenSession(t.Slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil && RVOf(failure("", err)) == p11.CKR_TOKEN_WRITE_PROTECTED {
		t.limits.begin(writeProtected, protected)
		readOnly = true
		opened, err = t.P11.OpenSession(t.Slot, p11.CKF_SERIAL_SESSION)
	}
	return cryptoki.Session(opened), readOnly, failure("C_OpenSession", err)
}
