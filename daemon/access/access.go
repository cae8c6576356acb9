// Package access decides whether a call may have a key: it finds the key, asks the policies
// and grants, and then looks at the key's state.
package access

import (
	"context"
	"fmt"

	"cmkd/daemon/journal"
	"cmkd/daemon/store"
	"cmkd/daemon/trust"
)

// Access is the one door to the keys.
type Access struct {
	*trust.Trust

	// Promised are the keys that the first call makes that uses them; nil means none.
	Promised Promised

	principals Principals
	policies   compiled
	usages     usages
}

// Principals knows who exists.
type Principals interface {
	// Exists reports whether the ARN is of an existing principal.
	Exists(arn string) bool
}

// Promised are keys that are listed before they exist.
type Promised interface {
	// Row is the row that the key of the alias will have, nil if none is promised.
	Row(region, alias string) *store.Key
	// Make makes the key of such a row and its alias, unless they are there.
	Make(ctx context.Context, row *store.Key, alias string) error
}

// New makes the door. Nil principals mean that all exist.
func New(t *trust.Trust, principals Principals) *Access {
	return &Access{Trust: t, principals: principals, policies: newCompiled(t.Account)}
}

// PrincipalExists reports whether the ARN is of an existing principal.
func (s *Access) PrincipalExists(principal string) bool {
	return s.principals == nil || s.principals.Exists(principal)
}

// keepPromise makes the key that the client means, if one is promised and this is its
// first use in the Region, and shows it to the call. Whoever may not use the key
// does not make it either.
func (s *Access) keepPromise(ctx context.Context, c *journal.Call, d *Demand) error {
	if s.Promised == nil {
		return nil
	}
	id, err := s.parseIdentifier(c.Region, d.KeyID)
	if err != nil {
		return nil //nolint:nilerr // resolve says what is wrong with it
	}
	if _, ok := c.View.Alias(c.Region, id.alias); ok {
		return nil
	}
	row := s.Promised.Row(c.Region, id.alias)
	if row == nil {
		return nil
	}
	if err := s.AuthoriseRow(c, d, row, id.alias); err != nil {
		return err
	}
	if err := s.Promised.Make(ctx, row, id.alias); err != nil {
		return fmt.Errorf("making the key of %s: %w", id.alias, err)
	}
	c.View = s.Store.View()
	return nil
}
