package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const region = "us-east-1"

var created = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func update(t testing.TB, s *Store, f func(tx *Tx) error) {
	t.Helper()
	if err := s.Update(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

func testKey(i int) *Key {
	return &Key{
		Region: region, ID: fmt.Sprintf("%08x-0000-4000-8000-000000000000", i),
		Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT", Origin: "AWS_KMS", Manager: "CUSTOMER",
		State: "Enabled", Token: "main", Created: created, Creator: "arn:aws:iam::111122223333:root",
		Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow",` +
			`"Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}`,
		Tags: []Tag{{"a", "b"}, {"Zoë", ""}},
	}
}

func testVersion(i int) *Version {
	return &Version{
		KeyID: testKey(i).ID, Number: 1, CKAID: fmt.Appendf(nil, "%016x", i),
		MaterialID: fmt.Sprintf("%064x", i), State: stateCurrent, Created: created,
	}
}

func testGrant(i int) *Grant {
	return &Grant{
		Region: region, KeyID: testKey(1).ID, ID: fmt.Sprintf("%064x", i),
		Grantee: fmt.Sprintf("arn:aws:iam::111122223333:user/u%d", i%3), Retiring: "arn:aws:iam::111122223333:user/r",
		Name: fmt.Sprintf("n%d", i%2), Issuer: "arn:aws:iam::111122223333:root", Operations: []string{"Decrypt"},
		ContextSubset: map[string]string{"b": "2", "a": "1"}, Created: created,
	}
}

// sample stores one row of each kind at least.
func sample(tx *Tx) error {
	replica := testKey(1)
	replica.Region, replica.PrimaryRegion = "eu-west-1", region
	old := testVersion(2)
	old.State, old.MaterialID = "NON_CURRENT", ""
	next := testVersion(2)
	next.Number, next.CKAID = 2, []byte("the second of it")
	return errors.Join(
		tx.PutKey(testKey(1)), tx.PutKey(replica), tx.PutKey(testKey(2)),
		tx.PutVersion(testVersion(1)), tx.PutVersion(old), tx.PutVersion(next),
		tx.PutAlias(&Alias{Region: region, Name: "alias/b", KeyID: testKey(1).ID, Created: created}),
		tx.PutAlias(&Alias{Region: region, Name: "alias/a", KeyID: testKey(1).ID, Created: created}),
		tx.PutGrant(testGrant(1)), tx.PutGrant(testGrant(2)), tx.PutGrant(testGrant(4)),
		tx.PutIntent(&Intent{CKAID: []byte{0, 1}, Action: "create", KeyID: testKey(1).ID, Token: "main"}),
		tx.PutSystemKey(&SystemKey{Token: "main", Purpose: "wrapping", Version: 10, CKAID: []byte{10}}),
		tx.PutSystemKey(&SystemKey{Token: "main", Purpose: "wrapping", Version: 9, CKAID: []byte{9}}),
		tx.PutImportParameters(&ImportParameters{Region: region, KeyID: testKey(2).ID, TokenHash: []byte{0xff, 0}}),
		tx.PutCustomKeyStore(&CustomKeyStore{Region: region, ID: "cks-1", Name: "n", Token: "second"}),
		tx.PutUsage(&Usage{Region: region, KeyID: testKey(1).ID, Operation: "Encrypt", Time: created}),
		tx.PutSetting(&Setting{Name: "account", Value: "111122223333"}),
	)
}

// TestReads checks every query inside the transaction, after the commit and
// after opening the store again.
func TestReads(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	update(t, s, func(tx *Tx) error {
		if err := sample(tx); err != nil {
			return err
		}
		checkSample(t, &tx.View)
		return nil
	})
	checkSample(t, s.View())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, path)
	checkSample(t, again.View())
	if !reflect.DeepEqual(contents(s.View()), contents(again.View())) {
		t.Error("the snapshot differs from what opening the store reads")
	}
}

func checkSample(t *testing.T, v *View) {
	t.Helper()
	one, two := testKey(1).ID, testKey(2).ID
	is := func(what string, got, want any) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	if k, ok := v.Key(region, one); !ok || !reflect.DeepEqual(k, testKey(1)) {
		t.Errorf("Key: %+v", k)
	}
	_, ok := v.Key("eu-west-1", two)
	is("absent key", ok, false)
	keyID := func(k *Key) string { return k.Region + "/" + k.ID }
	is("Keys", list(v.Keys(region, ""), keyID), []string{region + "/" + one, region + "/" + two})
	is("Keys after", list(v.Keys(region, one), keyID), []string{region + "/" + two})
	is("Keys after one that is not there", list(v.Keys(region, "1"), keyID), []string{})
	is("Keys of a Region whose name is a prefix", list(v.Keys("us-east", ""), keyID), []string{})
	is("AllKeys", len(list(v.AllKeys(), keyID)), 3)
	is("KeyReplicas", list(slices.Values(v.KeyReplicas(one)), keyID), []string{"eu-west-1/" + one, region + "/" + one})
	is("KeyCount", []int{v.KeyCount(region), v.KeyCount("eu-west-1"), v.KeyCount("x")}, []int{2, 1, 0})

	number := func(v *Version) string { return fmt.Sprint(v.Number) }
	is("Versions", list(slices.Values(v.Versions(two)), number), []string{"1", "2"})
	is("AllVersions", len(list(v.AllVersions(), number)), 3)
	version, _ := v.CurrentVersion(two)
	is("CurrentVersion", version.Number, 2)
	version, _ = v.Version(one, testVersion(1).MaterialID)
	is("Version", version.KeyID, one)
	_, ok = v.Version(two, testVersion(1).MaterialID)
	is("Version of another key", ok, false)
	version, _ = v.VersionByMaterial(testVersion(1).MaterialID)
	is("VersionByMaterial", version.KeyID, one)
	_, ok = v.VersionByMaterial(testVersion(1).MaterialID[:63])
	is("VersionByMaterial of a part", ok, false)
	_, ok = v.VersionByMaterial(testVersion(9).MaterialID)
	is("VersionByMaterial of no key", ok, false)
	version, _ = v.VersionByCKAID([]byte("the second of it"))
	is("VersionByCKAID", version.Number, 2)

	aliasName := func(a *Alias) string { return a.Name }
	alias, _ := v.Alias(region, "alias/a")
	is("Alias", alias.KeyID, one)
	is("Aliases", list(v.Aliases(region, ""), aliasName), []string{"alias/a", "alias/b"})
	is("AliasesOf after", list(v.AliasesOf(region, one, "alias/a"), aliasName), []string{"alias/b"})
	is("AliasesOf", list(v.AliasesOf(region, two, ""), aliasName), []string{})
	is("AliasCount", v.AliasCount(region), 2)

	grantID := func(g *Grant) string { return strings.TrimLeft(g.ID, "0") }
	grant, _ := v.Grant(region, one, testGrant(1).ID)
	is("Grant", grant.ContextSubset, testGrant(1).ContextSubset)
	grant, _ = v.GrantByID(region, testGrant(2).ID)
	is("GrantByID", grantID(grant), "2")
	is("GrantsOf after", list(v.GrantsOf(region, one, testGrant(1).ID), grantID), []string{"2", "4"})
	is("GrantsByGrantee", list(v.GrantsByGrantee(region, one, testGrant(1).Grantee), grantID), []string{"1", "4"})
	is("GrantsByName", list(v.GrantsByName(region, one, "n0"), grantID), []string{"2", "4"})
	is("GrantsByRetiring", list(v.GrantsByRetiring(region, testGrant(1).Retiring, testGrant(2).ID), grantID), []string{"4"})
	is("GrantCount", []int{v.GrantCount(region, one), v.GrantCount(region, two)}, []int{3, 0})

	system, _ := v.CurrentSystemKey("main", "wrapping")
	is("CurrentSystemKey", system.Version, 10)
	_, ok = v.CurrentSystemKey("main", "audit")
	is("absent system key", ok, false)
	system, _ = v.SystemKey("main", "wrapping", 9)
	is("SystemKey", system.CKAID, []byte{9})
	is("SystemKeys", len(v.SystemKeys("main", "wrapping")), 2)
	is("AllSystemKeys", len(slices.Collect(v.AllSystemKeys())), 2)

	imported, _ := v.ImportParameters([]byte{0xff, 0})
	is("ImportParameters", imported.KeyID, two)
	is("ImportParametersOf", len(slices.Collect(v.ImportParametersOf(region, two))), 1)
	is("AllImportParameters", len(slices.Collect(v.AllImportParameters())), 1)
	for _, find := range []func() (*CustomKeyStore, bool){
		func() (*CustomKeyStore, bool) { return v.CustomKeyStore(region, "cks-1") },
		func() (*CustomKeyStore, bool) { return v.CustomKeyStoreByName(region, "n") },
		func() (*CustomKeyStore, bool) { return v.CustomKeyStoreByToken(region, "second") },
	} {
		c, ok := find()
		is("CustomKeyStore", ok && c.ID == "cks-1", true)
	}
	_, ok = v.CustomKeyStoreByToken(region, "main")
	is("absent custom key store", ok, false)
	intent, _ := v.Intent([]byte{0, 1})
	is("Intent", intent.Action, "create")
	is("Intents", len(slices.Collect(v.Intents())), 1)
	usage, _ := v.Usage(region, one)
	is("Usage", usage.Operation, "Encrypt")
	setting, _ := v.Setting("account")
	is("Setting", setting.Value, "111122223333")
	is("Settings", len(slices.Collect(v.Settings())), 1)
}

func list[T any](rows iter.Seq[*T], name func(*T) string) []string {
	names := []string{}
	for row := range rows {
		names = append(names, name(row))
	}
	return names
}

// contents are all rows of a snapshot.
func contents(v *View) []any {
	var all []any
	collect(&all, v.keys)
	collect(&all, v.versions)
	collect(&all, v.aliases)
	collect(&all, v.grants)
	collect(&all, v.usages)
	collect(&all, v.intents)
	collect(&all, v.systemKeys)
	collect(&all, v.imports)
	collect(&all, v.customKeyStores)
	collect(&all, v.settings)
	return all
}

func collect[T any](all *[]any, t table[T]) {
	for row := range scan(t.rows, nil, "") {
		*all = append(*all, row)
	}
	for _, tree := range t.indexes {
		if tree != nil {
			*all = append(*all, tree.Len())
		}
	}
}

func TestDeleteKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	update(t, s, sample)
	before := s.View()
	update(t, s, func(tx *Tx) error {
		if !tx.DeleteKey(region, testKey(1).ID) || tx.DeleteKey(region, testKey(1).ID) {
			t.Error("DeleteKey: want true, then false")
		}
		return nil
	})
	checkSample(t, before) // a snapshot stays what it was
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, v := range []*View{s.View(), open(t, path).View()} {
		_, replica := v.Key("eu-west-1", testKey(1).ID)
		_, used := v.Usage(region, testKey(1).ID)
		if v.KeyCount(region) != 1 || v.AliasCount(region) != 0 || v.GrantCount(region, testKey(1).ID) != 0 ||
			used || !replica || len(v.Versions(testKey(1).ID)) != 1 {
			t.Error("DeleteKey: aliases, grants and last use go, replica and version stay")
		}
	}
}

// TestRefused: what a transaction must not do fails it, even if the error of
// the Put is ignored, and changes nothing.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	update(t, s, sample)
	before := s.View()
	second := func(change func(*Version)) func(*Tx) error {
		return func(tx *Tx) error {
			v := testVersion(1)
			v.Number, v.State, v.CKAID, v.MaterialID = 2, "NON_CURRENT", []byte("new"), "new"
			change(v)
			return tx.PutVersion(v)
		}
	}
	conflict := func(table, index string) error { return &ConflictError{Table: table, Index: index} }
	missing := func(table string) error {
		return &MissingKeyError{Table: table, Region: region, KeyID: "none"}
	}
	for name, c := range map[string]struct {
		f    func(*Tx) error
		want error
	}{
		"second current version": {second(func(v *Version) { v.State = stateCurrent }), conflict("versions", "current version")},
		"material ID twice":      {second(func(v *Version) { v.MaterialID = testVersion(1).MaterialID }), conflict("versions", "key material ID")},
		"CKA_ID twice":           {second(func(v *Version) { v.CKAID = testVersion(2).CKAID }), conflict("versions", "CKA_ID")},
		"custom key store name twice": {func(tx *Tx) error {
			return tx.PutCustomKeyStore(&CustomKeyStore{Region: region, ID: "cks-2", Name: "n"})
		}, conflict("custom_key_stores", "name")},
		"alias without key": {func(tx *Tx) error {
			return tx.PutAlias(&Alias{Region: region, Name: "alias/x", KeyID: "none"})
		}, missing("aliases")},
		"grant without key": {func(tx *Tx) error {
			return tx.PutGrant(&Grant{Region: region, ID: "1", KeyID: "none"})
		}, missing("grants")},
		"usage without key": {func(tx *Tx) error {
			return tx.PutUsage(&Usage{Region: region, KeyID: "none"})
		}, missing("usages")},
		"empty name":    {func(tx *Tx) error { return tx.PutSetting(&Setting{}) }, nil},
		"NUL in a name": {func(tx *Tx) error { return tx.PutSetting(&Setting{Name: "a\x00b"}) }, nil},
		"invalid UTF-8": {func(tx *Tx) error { return tx.PutSetting(&Setting{Name: "a", Value: "\xff"}) }, nil},
		"negative":      {second(func(v *Version) { v.Number = -1 }), nil},
		"no CKA_ID":     {second(func(v *Version) { v.CKAID = nil }), nil},
		"error of its own": {func(tx *Tx) error {
			tx.DeleteKey(region, testKey(1).ID)
			return context.Canceled
		}, context.Canceled},
	} {
		var put error
		for _, ignore := range []bool{false, true} {
			err := s.Update(context.Background(), func(tx *Tx) error {
				put = c.f(tx)
				if ignore && !errors.Is(put, context.Canceled) {
					return nil
				}
				return put
			})
			if put == nil || !errors.Is(err, put) || (c.want != nil && !reflect.DeepEqual(put, c.want)) {
				t.Errorf("%s: Put: %v, Update: %v, want %v", name, put, err, c.want)
			}
		}
	}
	if s.View() != before {
		t.Error("a failed transaction changed the snapshot")
	}
}

// TestRotation moves the current version as rotation does.
func TestRotation(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	update(t, s, sample)
	update(t, s, func(tx *Tx) error {
		old, _ := tx.CurrentVersion(testKey(1).ID)
		retired := *old
		retired.State = "NON_CURRENT"
		next := testVersion(1)
		next.Number, next.CKAID, next.MaterialID = 2, []byte("new"), "new"
		return errors.Join(tx.PutVersion(&retired), tx.PutVersion(next))
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	v := open(t, path).View()
	current, _ := v.CurrentVersion(testKey(1).ID)
	old, _ := v.Version(testKey(1).ID, testVersion(1).MaterialID)
	if current.Number != 2 || old.State != "NON_CURRENT" {
		t.Errorf("current %+v, old %+v", current, old)
	}
}

// TestCopies: rows given to Put belong to the caller.
func TestCopies(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	k := testKey(1)
	update(t, s, func(tx *Tx) error {
		err := tx.PutKey(k)
		k.State, k.Tags[0].Value = "Disabled", "changed"
		return err
	})
	stored, _ := s.View().Key(region, k.ID)
	if !reflect.DeepEqual(stored, testKey(1)) {
		t.Errorf("stored: %+v", stored)
	}
}

func TestWaitAndClose(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	update(t, s, func(*Tx) error {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		err := s.Update(ctx, func(*Tx) error { panic("it was not our turn") })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("waiting with a cancelled context: %v", err)
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	err := s.Update(ctx, func(tx *Tx) error {
		cancel() // in the middle: the commit is not torn apart
		return tx.PutKey(testKey(1))
	})
	if _, ok := s.View().Key(region, testKey(1).ID); err != nil || !ok {
		t.Errorf("cancelled in the middle: %v, committed %t", err, ok)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(context.Background(), sample); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if s.View().KeyCount(region) != 1 {
		t.Error("views must survive Close")
	}
}

// TestConcurrent moves an alias between two keys while readers check that
// they never see it elsewhere, nor a key count that was never committed.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	update(t, s, sample)
	done := make(chan struct{})
	readers := make(chan error, 4)
	for range cap(readers) {
		go func() {
			for {
				select {
				case <-done:
					readers <- nil
					return
				default:
				}
				v := s.View()
				a, ok := v.Alias(region, "alias/a")
				if !ok || len(list(v.AliasesOf(region, a.KeyID, ""), func(a *Alias) string { return a.Name })) == 0 ||
					v.KeyCount(region) != len(list(v.Keys(region, ""), func(k *Key) string { return k.ID })) {
					readers <- errors.New("a snapshot is not of one commit")
					return
				}
			}
		}()
	}
	writers := make(chan error, 4)
	for w := range cap(writers) {
		go func() {
			for i := range 50 {
				err := s.Update(context.Background(), func(tx *Tx) error {
					return errors.Join(
						tx.PutAlias(&Alias{Region: region, Name: "alias/a", KeyID: testKey(1 + i%2).ID}),
						tx.PutKey(testKey(100*(w+1)+i)))
				})
				if err != nil {
					writers <- err
					return
				}
			}
			writers <- nil
		}()
	}
	for range cap(writers) {
		if err := <-writers; err != nil {
			t.Error(err)
		}
	}
	close(done)
	for range cap(readers) {
		if err := <-readers; err != nil {
			t.Error(err)
		}
	}
	if n := s.View().KeyCount(region); n != 202 {
		t.Errorf("%d keys, want 202", n)
	}
}
