package kms

import (
	"context"
	"errors"
	"slices"
	"time"

	"cmkd/backends"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// checkState refuses what the key's state does not allow.
func checkState(op *operation, arn string, state keys.State) error {
	switch op.Refuses.In(state) {
	case 'D':
		return kmsapi.Errorf(kmsapi.CodeDisabledException, "%s is disabled.", arn)
	case 'P':
		return invalidState(arn, "pending deletion")
	case 'I':
		return invalidState(arn, "pending import")
	case 'U':
		return invalidState(arn, "unavailable")
	case 'C':
		return invalidState(arn, "creating")
	case 'G':
		return invalidState(arn, "updating")
	case 'N':
		return invalidState(arn, "not pending deletion")
	}
	return nil
}

func invalidState(arn, what string) error {
	return kmsapi.Errorf(kmsapi.CodeKMSInvalidStateException, "%s is %s.", arn, what)
}

// keyState is the state of the key now: that of its row, Unavailable if its
// token has been away for a while or its custom key store is disconnected, or
// PendingImport from the moment any of its imported materials expires. A key pending
// deletion or import stays so.
func (s *Service) keyState(view reader, key *store.Key) keys.State {
	state := key.State
	usable := state == kmsapi.KeyStateEnabled || state == kmsapi.KeyStateDisabled
	if usable && key.Origin == kmsapi.OriginTypeExternal && s.lost(view, key.ID) {
		return kmsapi.KeyStatePendingImport
	}
	if usable && (!connected(view, key) || !s.router.Available(key.Token, key.Spec)) {
		return kmsapi.KeyStateUnavailable
	}
	return state
}

// shownState is keyState for people to see: Unavailable too while the key's current
// material is known not to be in its token, or to be there twice or unsafe. Such a key is admitted
// all the same: a call finds out what the token has now, what the key encrypted under
// other materials can be decrypted, and a rotation mends it.
func (s *Service) shownState(view reader, key *store.Key) keys.State {
	state := s.keyState(view, key)
	if state != kmsapi.KeyStateEnabled && state != kmsapi.KeyStateDisabled {
		return state
	}
	if v, ok := view.CurrentVersion(key.ID); ok && (s.duplicated(v.CKAID) || s.absences.has(v.CKAID) || s.unsafes.has(v.CKAID)) {
		return kmsapi.KeyStateUnavailable
	}
	return state
}

// apiError turns any error into one of the API. It is the only place where
// that happens.
func (s *Service) apiError(c *Call, err error) *kmsapi.Error {
	if e, ok := asError[*kmsapi.Error](err); ok {
		return e
	}
	if errors.Is(err, store.ErrUnverified) {
		return errUnverified()
	}
	if errors.Is(err, store.ErrStale) {
		return kmsapi.Errorf(kmsapi.CodeDependencyTimeoutException, "The database of the service does not answer. Try again.")
	}
	if errors.Is(err, store.ErrUnwritable) {
		return kmsapi.Errorf(kmsapi.CodeKMSInternalException, "The database of the service cannot be written. Try again.")
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return kmsapi.Errorf(kmsapi.CodeDependencyTimeoutException, "The call was canceled.")
	}
	e, ok := asError[*backends.Error](err)
	if !ok {
		return kmsapi.Errorf(kmsapi.CodeKMSInternalException, "An internal error occurred.")
	}
	switch e.Code {
	case backends.InvalidCiphertext:
		return &kmsapi.Error{Code: kmsapi.CodeInvalidCiphertextException}
	case backends.InvalidRequest:
		return kmsapi.Errorf(kmsapi.CodeValidationException, "%s", e.Message)
	case backends.InvalidMaterial:
		return kmsapi.Errorf(kmsapi.CodeInvalidCiphertextException, "%s", e.Message)
	case backends.UnfitMaterial:
		return kmsapi.Errorf(kmsapi.CodeIncorrectKeyMaterialException, "%s", e.Message)
	case backends.Unsupported:
		return kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "%s", e.Message)
	case backends.KeyMissing, backends.KeyDuplicate, backends.KeyUnsafe, backends.LoginFailed, backends.Away:
		// A state that lasts: a 5xx would only make SDKs repeat the call.
		if c.arn == "" {
			return kmsapi.Errorf(kmsapi.CodeKMSInvalidStateException, "The token is unavailable.")
		}
		return kmsapi.Errorf(kmsapi.CodeKMSInvalidStateException, "%s is unavailable.", c.arn)
	case backends.TokenFull:
		return c.modelled(kmsapi.CodeLimitExceededException, "The token has no room for another key.")
	case backends.TokenReadOnly:
		return c.modelled(kmsapi.CodeUnsupportedOperationException, "The token is write-protected: no key can be made or destroyed in it.")
	case backends.Busy:
		return kmsapi.Errorf(kmsapi.CodeThrottlingException, "The token is busy. Try again.")
	case backends.Lost:
		return kmsapi.Errorf(kmsapi.CodeKeyUnavailableException, "The token that holds the key does not answer. Try again.")
	case backends.CutOff:
		return kmsapi.Errorf(kmsapi.CodeKeyUnavailableException, "%s", e.Message)
	case backends.Timeout:
		return kmsapi.Errorf(kmsapi.CodeDependencyTimeoutException, "The token did not answer in time. Try again.")
	default:
		return kmsapi.Errorf(kmsapi.CodeKMSInternalException, "An internal error occurred.")
	}
}

// modelled is an error with the code if the operation has it, so that clients know
// it; else KMSInternalException.
func (c *Call) modelled(code, message string) *kmsapi.Error {
	if c.op == nil || !slices.ContainsFunc(kmsapi.Operations, func(o kmsapi.Operation) bool {
		return o.Name == c.op.Operation() && slices.Contains(o.Errors, code)
	}) {
		code = kmsapi.CodeKMSInternalException
	}
	return kmsapi.Errorf(code, "%s", message)
}

// backendTrouble reports whether operators should hear of the error: it says
// something about the token, not about the request.
func backendTrouble(err error) bool {
	switch backends.CodeOf(err) {
	case backends.KeyMissing, backends.KeyDuplicate, backends.KeyUnsafe, backends.TokenFull,
		backends.TokenReadOnly, backends.Busy, backends.LoginFailed, backends.Away, backends.Lost, backends.Timeout:
		return true
	default:
		return false
	}
}

// KeyCount counts keys, for figures of the whole service.
type KeyCount struct {
	Keys map[KeyCountLabel]int
	// Expiries are when the first of a key's imported materials expires, by key
	// ARN.
	Expiries map[string]time.Time
}

// KeyCountLabel is what keys are counted by.
type KeyCountLabel struct {
	Region string
	State  keys.State
}

// CountKeys counts the keys as they are now.
func (s *Service) CountKeys() KeyCount {
	c := KeyCount{Keys: map[KeyCountLabel]int{}, Expiries: map[string]time.Time{}}
	view := s.store.View()
	for k := range view.AllKeys() {
		c.Keys[KeyCountLabel{k.Region, s.shownState(view, k)}]++
	}
	for v := range view.AllVersions() {
		if v.ValidTo.IsZero() {
			continue
		}
		for _, k := range view.KeyReplicas(v.KeyID) {
			arn := s.keyARN(k.Region, k.ID)
			if first, ok := c.Expiries[arn]; !ok || v.ValidTo.Before(first) {
				c.Expiries[arn] = v.ValidTo
			}
		}
	}
	return c
}
