package kms

import (
	"context"
	"iter"
	"slices"
	"strings"

	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/paging"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

func (s methods) CreateAlias(ctx context.Context, c *journal.Call, in *kmsapi.CreateAliasRequest) (*kmsapi.CreateAliasResponse, error) {
	if err := checkAliasName(in.AliasName); err != nil {
		return nil, err
	}
	k, err := s.admitTarget(ctx, c, in.AliasName, in.TargetKeyId)
	if err != nil {
		return nil, err
	}
	err = s.Commit(ctx, c, func(tx *store.Tx) error {
		if _, err := s.Readmit(tx, c, k); err != nil {
			return err
		}
		if _, ok := tx.Alias(c.Region, in.AliasName); ok {
			return kmsapi.Errorf(kmsapi.CodeAlreadyExistsException, "An alias with the name %s already exists", s.AliasARN(c.Region, in.AliasName))
		}
		if err := s.checkAliasQuota(tx, k); err != nil {
			return err
		}
		now := s.Now()
		return tx.PutAlias(&store.Alias{Region: c.Region, Name: in.AliasName, KeyID: k.ID, Created: now, Updated: now})
	})
	return &kmsapi.CreateAliasResponse{}, err
}

func (s methods) UpdateAlias(ctx context.Context, c *journal.Call, in *kmsapi.UpdateAliasRequest) (*kmsapi.UpdateAliasResponse, error) {
	if err := checkAliasName(in.AliasName); err != nil {
		return nil, err
	}
	k, err := s.admitTarget(ctx, c, in.AliasName, in.TargetKeyId)
	if err != nil {
		return nil, err
	}
	was, err := s.admitOldTarget(c, in.AliasName)
	if err != nil {
		return nil, err
	}
	err = s.Commit(ctx, c, func(tx *store.Tx) error {
		if _, err := s.Readmit(tx, c, k); err != nil {
			return err
		}
		if now, _ := tx.Alias(c.Region, in.AliasName); now != was {
			return journal.ErrOutdated
		}
		if was.KeyID != k.ID {
			if err := s.checkAliasQuota(tx, k); err != nil {
				return err
			}
		}
		old, ok := tx.Key(c.Region, was.KeyID)
		if ok && (keys.TypeOf(old.Spec, old.Usage) != keys.TypeOf(k.Spec, k.Usage) || old.Usage != k.Usage) {
			return kmsapi.Errorf(kmsapi.CodeValidationException,
				"Alias %s cannot be changed from key %s to key %s. The current key and the new key must be the same type (both symmetric or both asymmetric or both HMAC) and have the same key usage.",
				s.AliasARN(c.Region, in.AliasName), s.KeyARN(old.Region, old.ID), k.ARN)
		}
		alias := *was
		alias.KeyID, alias.Updated = k.ID, s.Now()
		return tx.PutAlias(&alias)
	})
	return &kmsapi.UpdateAliasResponse{}, err
}

func (s methods) DeleteAlias(ctx context.Context, c *journal.Call, in *kmsapi.DeleteAliasRequest) (*kmsapi.DeleteAliasResponse, error) {
	if err := checkAliasName(in.AliasName); err != nil {
		return nil, err
	}
	// First the alias, which has no policy of its own: whoever may not delete it
	// does not learn whether it is there.
	if err := s.AuthoriseResource(c, &access.Demand{}, s.AliasARN(c.Region, in.AliasName)); err != nil {
		return nil, err
	}
	alias, ok := c.View.Alias(c.Region, in.AliasName)
	if !ok {
		return nil, s.aliasNotFound(c, in.AliasName)
	}
	if row, ok := c.View.Key(c.Region, alias.KeyID); ok {
		if _, err := s.AdmitKey(ctx, c, &access.Demand{KeyID: in.AliasName}, row, ""); err != nil {
			return nil, err
		}
	}
	err := s.Commit(ctx, c, func(tx *store.Tx) error {
		if now, _ := tx.Alias(c.Region, in.AliasName); now != alias {
			return journal.ErrOutdated
		}
		tx.DeleteAlias(c.Region, in.AliasName)
		return nil
	})
	return &kmsapi.DeleteAliasResponse{}, err
}

func (s methods) ListAliases(ctx context.Context, c *journal.Call, in *kmsapi.ListAliasesRequest) (*kmsapi.ListAliasesResponse, error) {
	if err := s.AuthoriseAccount(c, &access.Demand{}); err != nil {
		return nil, err
	}
	l := paging.ListOf(c, "")
	if in.KeyId != "" {
		k, _, err := s.Resolve(c.View, c.Region, in.KeyId, false)
		if err != nil {
			return nil, err
		}
		l.Of = k.ID
	}
	after, err := l.DecodeMarker(in.Marker)
	if err != nil {
		return nil, err
	}
	rows := withPending(c.View.Aliases(c.Region, after), s.PendingManaged(c.View, c.Region), after)
	if l.Of != "" {
		rows = c.View.AliasesOf(c.Region, l.Of, after)
	}
	list, next := paging.Page(l, rows, paging.Limit(in.Limit, 50), func(a *store.Alias) string { return a.Name })
	out := &kmsapi.ListAliasesResponse{Aliases: []kmsapi.AliasListEntry{}, NextMarker: next, Truncated: next != ""}
	for _, a := range list {
		out.Aliases = append(out.Aliases, kmsapi.AliasListEntry{
			AliasName: a.Name, AliasArn: s.AliasARN(a.Region, a.Name), TargetKeyId: a.KeyID,
			CreationDate: a.Created, LastUpdatedDate: a.Updated,
		})
	}
	return out, nil
}

// withPending merges aliases without a key into the list, which is in the order
// of names.
func withPending(rows iter.Seq[*store.Alias], pending []*store.Alias, after string) iter.Seq[*store.Alias] {
	if len(pending) == 0 {
		return rows
	}
	all := slices.Collect(rows)
	for _, p := range pending {
		if p.Name > after {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *store.Alias) int { return strings.Compare(a.Name, b.Name) })
	return slices.Values(all)
}

func count[T any](rows iter.Seq[T]) (n int) {
	for range rows {
		n++
	}
	return n
}

// checkAliasQuota refuses an alias more for the key than it may have.
func (s *Service) checkAliasQuota(tx *store.Tx, k *access.Key) error {
	if n := count(tx.AliasesOf(k.Region, k.ID, "")); n >= s.limits.AliasesPerKey {
		return kmsapi.Errorf(kmsapi.CodeLimitExceededException,
			"Aliases per key quota for this account in this region is %d, current usage is %d.", s.limits.AliasesPerKey, n)
	}
	return nil
}

// admitOldTarget admits the key that an alias points to now, and returns the alias.
// The state of the key does not matter: it may be pending deletion.
func (s *Service) admitOldTarget(c *journal.Call, name string) (*store.Alias, error) {
	alias, ok := c.View.Alias(c.Region, name)
	if !ok {
		return nil, s.aliasNotFound(c, name)
	}
	old, ok := c.View.Key(c.Region, alias.KeyID)
	if !ok {
		return alias, nil
	}
	return alias, s.AuthoriseRow(c, &access.Demand{KeyID: name}, old, "")
}

// admitTarget admits the key that an alias is to point to, after the alias
// itself: the caller needs both.
func (s *Service) admitTarget(ctx context.Context, c *journal.Call, name, target string) (*access.Key, error) {
	if s.IsAlias(c.Region, target) {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "Aliases must refer to keys. Not aliases")
	}
	d := &access.Demand{KeyID: target}
	if err := s.AuthoriseResource(c, d, s.AliasARN(c.Region, name)); err != nil {
		return nil, err
	}
	return s.Admit(ctx, c, d)
}

// checkAliasName refuses names without the prefix and the names that are kept
// for keys that the daemon manages.
func checkAliasName(name string) error {
	switch {
	case !strings.HasPrefix(name, keys.AliasPrefix) || name == keys.AliasPrefix:
		return kmsapi.Errorf(kmsapi.CodeValidationException,
			`Alias must start with the prefix "alias/". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html`)
	case strings.HasPrefix(name, keys.AliasPrefix+"aws/"):
		return kmsapi.Errorf(kmsapi.CodeNotAuthorizedException, "")
	case strings.Contains(name[len(keys.AliasPrefix):], ":"):
		return kmsapi.Errorf(kmsapi.CodeValidationException, "%s contains invalid characters for an alias", name)
	}
	return nil
}

func (s *Service) aliasNotFound(c *journal.Call, name string) error {
	return kmsapi.Errorf(kmsapi.CodeNotFoundException, "Alias %s is not found.", s.AliasARN(c.Region, name))
}
