package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"cmkd/backends"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/keys"
	"cmkd/daemon/policy/templates"
	"cmkd/daemon/store"
	"cmkd/daemon/trust"
	"cmkd/socket/kmsapi"
)

// recoveredEncryptions is what a material is taken to have encrypted before
// its row was lost: half of what NIST SP 800-38D allows.
const recoveredEncryptions = 1 << 31

// Recover compares the tokens with the database. Of the keys that adopt chooses
// it also makes the rows of the materials it found, which a database that was
// lost, or the copy of an earlier day, lacks: then the newest material of a key
// that the database knows becomes the current one, and a key that it does not
// know comes back disabled, with the default key policy and without its
// aliases, tags and grants. What was adopted is recorded. A nil adopt chooses
// none.
func (s *Lifecycle) Recover(ctx context.Context, c *journal.Call, adopt func(keyID string) bool) (*keyring.Inventory, error) {
	if s.Mismatch() != nil {
		return nil, journal.ErrUnverified()
	}
	inv, err := s.Inventory(ctx, s.Tokens(), true)
	if err != nil {
		return nil, err
	}
	if err := s.CheckDuplicates(ctx); err != nil {
		return nil, err
	}
	inv.Duplicates = s.Duplicates()
	var chosen []*keyring.FoundKey
	for _, k := range inv.Found {
		if err := s.describe(ctx, k); err != nil {
			return nil, fmt.Errorf("looking at key %s in token %s: %w", k.KeyID, k.Token, err)
		}
		if k.Problem == "" && adopt != nil && adopt(k.KeyID) {
			chosen = append(chosen, k)
		}
	}
	for some := range slices.Chunk(chosen, trust.MaxRecorded) {
		if err := s.adoptKeys(ctx, c, some); err != nil {
			return nil, fmt.Errorf("recovering keys: %w", err)
		}
	}
	return inv, nil
}

// adoptKeys adopts so many keys as one record of the trail holds: all of them
// recorded, or none.
func (s *Lifecycle) adoptKeys(ctx context.Context, c *journal.Call, keys []*keyring.FoundKey) error {
	var done []*keyring.FoundKey
	err := s.Commit(ctx, c, func(tx *store.Tx) error {
		for _, k := range keys {
			if err := s.adoptKey(tx, &c.Caller, k); err != nil {
				return fmt.Errorf("key %s: %w", k.KeyID, err)
			}
			if k.Problem == "" {
				done = append(done, k)
			}
		}
		if len(done) == 0 {
			return errNothing
		}
		details, err := json.Marshal(map[string]any{"keys": done}, json.Deterministic(true))
		if err != nil {
			return err
		}
		c.Record.AdditionalEventData.Details = details
		return nil
	})
	if err != nil && !errors.Is(err, errNothing) {
		return err
	}
	for _, k := range done {
		k.Recovered = true
	}
	return nil
}

// errNothing ends a transaction that has nothing to do.
var errNothing = errors.New("nothing to do")

// describe finds out what kind of key the objects are, which only trying tells:
// every attribute must be as cmkd makes it for the kind.
func (s *Lifecycle) describe(ctx context.Context, k *keyring.FoundKey) error {
	if k.Problem != "" {
		return nil
	}
	if k.Token != s.Token {
		cks, ok := s.Store.View().CustomKeyStoreByToken(s.Region, k.Token)
		if !ok {
			k.Problem = fmt.Sprintf("token %s has no custom key store in %s: make it first", k.Token, s.Region)
			return nil
		}
		k.StoreID = cks.ID
	}
	for i, id := range k.IDs {
		kind, public, err := s.identify(ctx, k.Token, keyring.ObjectID(id))
		if backends.CodeOf(err) == backends.KeyDuplicate {
			k.Problem = "two objects have its CKA_ID"
			return nil
		}
		if err != nil {
			return err
		}
		if kind == nil {
			k.Problem = "it is not as cmkd makes keys"
			return nil
		}
		if i > 0 && (k.Spec != kind.Spec || k.Usage != kind.Usage || k.Imported != kind.Imported) {
			k.Problem = "its versions are of different kinds"
			return nil
		}
		k.Spec, k.Usage, k.Imported, k.PublicKey = kind.Spec, kind.Usage, kind.Imported, public
	}
	view := s.Store.View()
	materials := len(view.Versions(k.KeyID)) + len(k.Versions)
	rows := view.KeyReplicas(k.KeyID)
	switch {
	case len(rows) > 0 && (rows[0].Spec != k.Spec || rows[0].Usage != k.Usage || (rows[0].Origin == kmsapi.OriginTypeExternal) != k.Imported):
		k.Problem = "it is not of the kind that the database says"
	case materials > 1 && k.Spec != keys.SymmetricDefault:
		k.Problem = "a key of its kind has one version"
	}
	return nil
}

// identify finds the kind of the key with the CKA_ID, nil if it is none of a
// client's. Where no object of a class is, none is looked for again: that
// searches the whole token.
func (s *Lifecycle) identify(ctx context.Context, token string, id backends.KeyID) (kind *backends.Key, public []byte, err error) {
	missing := map[bool]bool{} // by whether the class is CKO_SECRET_KEY
	for _, candidate := range kinds() {
		secret := candidate.Spec == backends.SymmetricDefault || candidate.Usage == backends.GenerateVerifyMAC
		if missing[secret] {
			continue
		}
		b, info, ok := s.Router.Route(token, candidate.Spec)
		if !ok || info.Unsupported != "" {
			continue
		}
		candidate.ID = id
		made, err := b.CheckKey(ctx, &backends.CheckKeyRequest{Key: candidate})
		switch backends.CodeOf(err) {
		case "":
			return &candidate, made.PublicKey, nil
		case backends.KeyMissing:
			missing[secret] = true
		case backends.KeyUnsafe, backends.Unsupported, backends.InvalidRequest:
		default:
			return nil, nil, err
		}
	}
	return nil, nil, nil
}

// kinds are the kinds of key that clients make, the most frequent first.
func kinds() []backends.Key {
	order := slices.Sorted(maps.Keys(keys.Specs))
	order = append([]backends.KeySpec{backends.SymmetricDefault}, slices.DeleteFunc(order, func(spec backends.KeySpec) bool {
		return spec == backends.SymmetricDefault
	})...)
	var out []backends.Key
	for _, spec := range order {
		for _, usage := range keys.Specs[spec].Usages {
			out = append(out, backends.Key{Spec: spec, Usage: usage})
			if keys.Specs[spec].Importable {
				out = append(out, backends.Key{Spec: spec, Usage: usage, Imported: true})
			}
		}
	}
	return out
}

// adoptKey stores the rows of a key's materials, and the key's if it has none.
// Calls have gone on since it was found: what has a row by now, or is being
// destroyed, stays as it is.
func (s *Lifecycle) adoptKey(tx *store.Tx, caller *journal.Caller, k *keyring.FoundKey) error {
	rows := tx.KeyReplicas(k.KeyID)
	if k.Known && len(rows) == 0 {
		k.Problem = "it was deleted meanwhile"
		return nil
	}
	old, hasOld := tx.CurrentVersion(k.KeyID)
	for i, number := range k.Versions {
		_, has := tx.VersionByCKAID(k.IDs[i])
		if _, ending := tx.Intent(k.IDs[i]); has || ending {
			continue
		}
		v := s.recoveredVersion(k, i)
		if i == len(k.Versions)-1 && (!hasOld || number > old.Number) {
			v.State = kmsapi.KeyMaterialStateCurrent
		}
		if versions := tx.Versions(k.KeyID); slices.ContainsFunc(versions, func(v *store.Version) bool { return v.Number == number }) {
			v.Number = versions[len(versions)-1].Number + 1 // its KeyMaterialId stays that of its label
		}
		if v.State == kmsapi.KeyMaterialStateCurrent && hasOld {
			demoted := *old
			demoted.State = kmsapi.KeyMaterialStateNonCurrent
			if err := tx.PutVersion(&demoted); err != nil {
				return err
			}
		}
		if err := tx.PutVersion(v); err != nil {
			return err
		}
	}
	switch {
	case len(rows) == 0:
		return s.PutNewKey(tx, s.recoveredKey(caller, k))
	case k.Imported:
		return s.reflectReplicas(tx, k.KeyID, k.PublicKey, false)
	}
	return nil
}

// recoveredVersion is the row of the key's i-th material.
func (s *Lifecycle) recoveredVersion(k *keyring.FoundKey, i int) *store.Version {
	now, number := s.Now(), k.Versions[i]
	v := &store.Version{
		KeyID: k.KeyID, Number: number, CKAID: k.IDs[i], MaterialID: keyring.MaterialID(k.KeyID, number, k.IDs[i]),
		State: kmsapi.KeyMaterialStateNonCurrent, Created: now,
	}
	if number > 1 {
		v.Rotated, v.RotationType = now, kmsapi.RotationTypeOnDemand
	}
	if k.Spec == keys.SymmetricDefault {
		v.Encryptions = recoveredEncryptions
	}
	if k.Imported {
		v.Imported, v.ImportState = true, kmsapi.ImportStateImported
		v.ExpirationModel = kmsapi.ExpirationModelTypeKeyMaterialDoesNotExpire
	}
	return v
}

// recoveredKey is the row of a key of which nothing but the token knows.
func (s *Lifecycle) recoveredKey(caller *journal.Caller, k *keyring.FoundKey) *store.Key {
	row := &store.Key{
		Region: s.Region, ID: k.KeyID, Description: "Recovered from token " + k.Token,
		Spec: k.Spec, Usage: k.Usage, Origin: kmsapi.OriginTypeAWSKMS,
		Manager: kmsapi.KeyManagerTypeCustomer, State: kmsapi.KeyStateDisabled,
		Token: k.Token, CustomKeyStoreID: k.StoreID, Created: s.Now(), Creator: caller.Principal.DisplayARN(),
		Policy: templates.DefaultKeyPolicy(s.Account), PublicKey: k.PublicKey,
	}
	switch {
	case k.StoreID != "":
		row.Origin = kmsapi.OriginTypeAWSCloudHSM
	case k.Imported:
		row.Origin = kmsapi.OriginTypeExternal
		row.ExpirationModel = kmsapi.ExpirationModelTypeKeyMaterialDoesNotExpire
	}
	if strings.HasPrefix(k.KeyID, keys.MRKPrefix) {
		row.PrimaryRegion = s.Region
	}
	return row
}
