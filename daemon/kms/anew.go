package kms

import (
	"context"
	"errors"

	"cmkd/backends"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/socket/kmsapi"
)

// A call decides on a snapshot: who may do what with which key, in which state it
// is, which version the call is for. Its transaction comes later, and much later
// if the token is asked for something in between. So [Journal.Commit] holds the keys
// that the call decided on against the rows as they are then. If they are
// others, nothing is written, what the token made is destroyed, and the call decides
// again: as if it had come after the change that it met. What depends on other
// rows than keys (names, quotas, custom key stores) is looked up inside the
// transaction.

// maxDecisions bounds how often a call decides. Each time another call, which
// changed the same key, was done, so that only what goes wrong comes near it.
const maxDecisions = 100

// decide runs the operation until what it decides on stays as it is until it has
// happened. A call whose object in the token has gone decides again too, if its
// key has changed: the material may be there under another CKA_ID.
func (s *Service) decide(ctx context.Context, c *journal.Call, serve kmsapi.Method[*journal.Call], body []byte) (kmsapi.Output, error) {
	creations := 0
	for range maxDecisions {
		if err := s.Store.Fresh(); err != nil && s.Mismatch() == nil { // now that the call has its view
			return nil, err
		}
		out, err := serve(ctx, c, body)
		missing := backends.CodeOf(err) == backends.KeyMissing && c.Outdated(s.Store.View())
		unanswered := errors.Is(err, keyring.ErrUnanswered)
		if !missing && !unanswered && !errors.Is(err, journal.ErrOutdated) {
			return out, err
		}
		if c.Created {
			if creations++; creations == journal.MaxCreations && unanswered {
				return nil, backends.Errorf(backends.Lost, "%d times %v", creations, err)
			} else if creations == journal.MaxCreations {
				break
			}
		}
		s.Anew(c)
	}
	return nil, kmsapi.Errorf(kmsapi.CodeKMSInternalException, "The key was changed again and again during the call. Try again.")
}
