package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/google/uuid"

	"cmkd/backends"
	"cmkd/daemon/keyring"
	"cmkd/daemon/keys"
	"cmkd/daemon/policy/templates"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// ManagedKey is a key that the service manages for its users: AWS calls it an
// AWS managed key. What clients may do with it is up to its policy, which lets
// nobody change it.
// https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html#aws-managed-cmk
type ManagedKey struct {
	Alias       string // "alias/aws/NAME"
	Description string
	Policy      string // key policy document
}

// managedKeys are those of the configuration.
type managedKeys struct {
	byAlias map[string]*ManagedKey

	making chan struct{} // holds a value while one is made
}

func newManagedKeys(list []ManagedKey) managedKeys {
	m := managedKeys{byAlias: map[string]*ManagedKey{}, making: make(chan struct{}, 1)}
	for i := range list {
		m.byAlias[list[i].Alias] = &list[i]
	}
	return m
}

// managed are the keys that [Access] makes when they are first used.
type managed struct{ *Lifecycle }

// Row is the row of a managed key that is yet to be made.
func (s managed) Row(region, alias string) *store.Key {
	declared, ok := s.managed.byAlias[alias]
	if !ok {
		return nil
	}
	now := s.Now()
	return &store.Key{
		Region: region, ID: uuid.NewString(), Description: declared.Description,
		Spec: keys.SymmetricDefault, Usage: backends.EncryptDecrypt, Origin: kmsapi.OriginTypeAWSKMS,
		Manager: kmsapi.KeyManagerTypeAWS, State: kmsapi.KeyStateEnabled, Token: s.Token,
		Created: now, Creator: keys.RootARN(s.Account), Policy: declared.Policy,
		RotationPeriodDays: keys.RotationDays, NextRotation: now.Add(keys.RotationDays * keyring.Day),
	}
}

// errMade: another node has made the managed key meanwhile.
var errMade = errors.New("the managed key is there")

// Make makes a managed key with its alias, once.
func (s managed) Make(ctx context.Context, row *store.Key, name string) error {
	select {
	case s.managed.making <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.managed.making }()
	if _, ok := s.Store.View().Alias(row.Region, name); ok {
		return nil
	}
	b, err := s.RouteNew(s.Token, keys.SymmetricDefault)
	if err != nil {
		return err
	}
	err = s.GenerateKey(ctx, nil, b, row, func(tx *store.Tx) error {
		if _, ok := tx.Alias(row.Region, name); ok {
			return errMade
		}
		alias := &store.Alias{Region: row.Region, Name: name, KeyID: row.ID, Created: row.Created, Updated: row.Created}
		return errors.Join(tx.PutAlias(alias), s.Announce(ctx, tx, s.Creation(row)))
	})
	if errors.Is(err, errMade) {
		return nil
	}
	if err != nil {
		return err
	}
	s.Log.LogAttrs(ctx, slog.LevelInfo, "managed key created", slog.String("alias", name), slog.String("key", s.KeyARN(row.Region, row.ID)))
	return nil
}

// UpdateManaged gives the managed keys that exist the descriptions and policies of
// the configuration. Those that have left it are nobody's to use any more: the
// account may have them deleted.
func (s *Lifecycle) UpdateManaged(ctx context.Context) error {
	var former []string
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		for _, region := range s.Regions {
			for alias := range tx.Aliases(region, keys.AliasPrefix+"aws/") {
				if !strings.HasPrefix(alias.Name, keys.AliasPrefix+"aws/") {
					break
				}
				now, ok := tx.Key(region, alias.KeyID)
				if !ok || now.Manager != kmsapi.KeyManagerTypeAWS {
					continue
				}
				row := *now
				if declared, ok := s.managed.byAlias[alias.Name]; ok {
					row.Policy, row.Description = declared.Policy, declared.Description
				} else {
					row.Policy = templates.FormerManagedKeyPolicy(s.Account)
					former = append(former, s.KeyARN(region, row.ID))
				}
				if row.Policy == now.Policy && row.Description == now.Description {
					continue
				}
				if err := tx.PutKey(&row); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("updating the managed keys: %w", err)
	}
	for _, arn := range former {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "managed key removed from the configuration: it cannot be used, administrators may delete it",
			slog.String("key", arn))
	}
	return nil
}

// PendingManaged are the aliases of managed keys that are not made yet in the
// Region: AWS lists them without a key.
func (s *Lifecycle) PendingManaged(view *store.View, region string) []*store.Alias {
	var list []*store.Alias
	for name := range s.managed.byAlias {
		if _, ok := view.Alias(region, name); !ok {
			list = append(list, &store.Alias{Region: region, Name: name})
		}
	}
	return list
}
