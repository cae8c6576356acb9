package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"cmkd/daemon/store"
)

// testReads checks every query inside the transaction, after the commit and
// after opening the store again.
func testReads(t *testing.T, db Database) {
	s := Open(t, db)
	Update(t, s, func(tx *store.Tx) error {
		if err := Sample(tx); err != nil {
			return err
		}
		CheckSample(t, &tx.View)
		return nil
	})
	CheckSample(t, s.View())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := Open(t, db)
	CheckSample(t, again.View())
	if !bytes.Equal(s.View().Root(), again.View().Root()) {
		t.Error("the snapshot differs from what opening the store reads")
	}
}

// CheckSample checks what every query finds in a snapshot of the sample.
func CheckSample(t *testing.T, v *store.View) {
	t.Helper()
	one, two := Key(1).ID, Key(2).ID
	is := func(what string, got, want any) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	if k, ok := v.Key(Region, one); !ok || !reflect.DeepEqual(k, Key(1)) {
		t.Errorf("Key: %+v", k)
	}
	_, ok := v.Key("eu-west-1", two)
	is("absent key", ok, false)
	keyID := func(k *store.Key) string { return k.Region + "/" + k.ID }
	is("Keys", list(v.Keys(Region, ""), keyID), []string{Region + "/" + one, Region + "/" + two})
	is("Keys after", list(v.Keys(Region, one), keyID), []string{Region + "/" + two})
	is("Keys after one that is not there", list(v.Keys(Region, "1"), keyID), []string{})
	is("Keys of a Region whose name is a prefix", list(v.Keys("us-east", ""), keyID), []string{})
	is("AllKeys", len(list(v.AllKeys(), keyID)), 3)
	is("KeyReplicas", list(slices.Values(v.KeyReplicas(one)), keyID), []string{"eu-west-1/" + one, Region + "/" + one})
	is("KeyCount", []int{v.KeyCount(Region), v.KeyCount("eu-west-1"), v.KeyCount("x")}, []int{2, 1, 0})

	number := func(v *store.Version) string { return fmt.Sprint(v.Number) }
	is("Versions", list(slices.Values(v.Versions(two)), number), []string{"1", "2"})
	is("AllVersions", len(list(v.AllVersions(), number)), 3)
	version, _ := v.CurrentVersion(two)
	is("CurrentVersion", version.Number, 2)
	version, _ = v.Version(one, Version(1).MaterialID)
	is("Version", version.KeyID, one)
	_, ok = v.Version(two, Version(1).MaterialID)
	is("Version of another key", ok, false)
	version, _ = v.VersionByMaterial(Version(1).MaterialID)
	is("VersionByMaterial", version.KeyID, one)
	_, ok = v.VersionByMaterial(Version(1).MaterialID[:63])
	is("VersionByMaterial of a part", ok, false)
	_, ok = v.VersionByMaterial(Version(9).MaterialID)
	is("VersionByMaterial of no key", ok, false)
	version, _ = v.VersionByCKAID([]byte("the second of it"))
	is("VersionByCKAID", version.Number, 2)

	aliasName := func(a *store.Alias) string { return a.Name }
	alias, _ := v.Alias(Region, "alias/a")
	is("Alias", alias.KeyID, one)
	is("Aliases", list(v.Aliases(Region, ""), aliasName), []string{"alias/a", "alias/b"})
	is("AliasesOf after", list(v.AliasesOf(Region, one, "alias/a"), aliasName), []string{"alias/b"})
	is("AliasesOf", list(v.AliasesOf(Region, two, ""), aliasName), []string{})
	is("AliasCount", v.AliasCount(Region), 2)

	grantID := func(g *store.Grant) string { return strings.TrimLeft(g.ID, "0") }
	grant, _ := v.Grant(Region, one, Grant(1).ID)
	is("Grant", grant.ContextSubset, Grant(1).ContextSubset)
	grant, _ = v.GrantByID(Region, Grant(2).ID)
	is("GrantByID", grantID(grant), "2")
	is("GrantsOf after", list(v.GrantsOf(Region, one, Grant(1).ID), grantID), []string{"2", "4"})
	is("GrantsByGrantee", list(v.GrantsByGrantee(Region, one, Grant(1).Grantee), grantID), []string{"1", "4"})
	is("GrantsByName", list(v.GrantsByName(Region, one, "n0"), grantID), []string{"2", "4"})
	is("GrantsByRetiring", list(v.GrantsByRetiring(Region, Grant(1).Retiring, Grant(2).ID), grantID), []string{"4"})
	is("GrantCount", []int{v.GrantCount(Region, one), v.GrantCount(Region, two)}, []int{3, 0})

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
	is("ImportParametersOf", len(slices.Collect(v.ImportParametersOf(Region, two))), 1)
	is("AllImportParameters", len(slices.Collect(v.AllImportParameters())), 1)
	for _, find := range []func() (*store.CustomKeyStore, bool){
		func() (*store.CustomKeyStore, bool) { return v.CustomKeyStore(Region, "cks-1") },
		func() (*store.CustomKeyStore, bool) { return v.CustomKeyStoreByName(Region, "n") },
		func() (*store.CustomKeyStore, bool) { return v.CustomKeyStoreByToken(Region, "second") },
	} {
		c, ok := find()
		is("CustomKeyStore", ok && c.ID == "cks-1", true)
	}
	_, ok = v.CustomKeyStoreByToken(Region, "main")
	is("absent custom key store", ok, false)
	intent, _ := v.Intent([]byte{0, 1})
	is("Intent", intent.Action, "create")
	is("Intents", len(slices.Collect(v.Intents())), 1)
	usage, _ := v.Usage(Region, one)
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

func testDeleteKey(t *testing.T, db Database) {
	s := Open(t, db)
	Update(t, s, Sample)
	before := s.View()
	Update(t, s, func(tx *store.Tx) error {
		if !tx.DeleteKey(Region, Key(1).ID) || tx.DeleteKey(Region, Key(1).ID) {
			t.Error("DeleteKey: want true, then false")
		}
		return nil
	})
	CheckSample(t, before) // a snapshot stays what it was
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, v := range []*store.View{s.View(), Open(t, db).View()} {
		_, replica := v.Key("eu-west-1", Key(1).ID)
		_, used := v.Usage(Region, Key(1).ID)
		if v.KeyCount(Region) != 1 || v.AliasCount(Region) != 0 || v.GrantCount(Region, Key(1).ID) != 0 ||
			used || !replica || len(v.Versions(Key(1).ID)) != 1 {
			t.Error("DeleteKey: aliases, grants and last use go, replica and version stay")
		}
	}
}

// testRefused: what a transaction must not do fails it, even if the error of
// the Put is ignored, and changes nothing.
func testRefused(t *testing.T, db Database) {
	s := Open(t, db)
	Update(t, s, Sample)
	before := s.View()
	second := func(change func(*store.Version)) func(*store.Tx) error {
		return func(tx *store.Tx) error {
			v := Version(1)
			v.Number, v.State, v.CKAID, v.MaterialID = 2, "NON_CURRENT", []byte("new"), "new"
			change(v)
			return tx.PutVersion(v)
		}
	}
	conflict := func(table, index string) error { return &store.ConflictError{Table: table, Index: index} }
	missing := func(table string) error {
		return &store.MissingKeyError{Table: table, Region: Region, KeyID: "none"}
	}
	for name, c := range map[string]struct {
		f    func(*store.Tx) error
		want error
	}{
		"second current version": {second(func(v *store.Version) { v.State = "CURRENT" }), conflict("versions", "current version")},
		"material ID twice":      {second(func(v *store.Version) { v.MaterialID = Version(1).MaterialID }), conflict("versions", "key material ID")},
		"CKA_ID twice":           {second(func(v *store.Version) { v.CKAID = Version(2).CKAID }), conflict("versions", "CKA_ID")},
		"custom key store name twice": {func(tx *store.Tx) error {
			return tx.PutCustomKeyStore(&store.CustomKeyStore{Region: Region, ID: "cks-2", Name: "n"})
		}, conflict("custom_key_stores", "name")},
		"alias without key": {func(tx *store.Tx) error {
			return tx.PutAlias(&store.Alias{Region: Region, Name: "alias/x", KeyID: "none"})
		}, missing("aliases")},
		"grant without key": {func(tx *store.Tx) error {
			return tx.PutGrant(&store.Grant{Region: Region, ID: "1", KeyID: "none"})
		}, missing("grants")},
		"usage without key": {func(tx *store.Tx) error {
			return tx.PutUsage(&store.Usage{Region: Region, KeyID: "none"})
		}, missing("usages")},
		"empty name":    {func(tx *store.Tx) error { return tx.PutSetting(&store.Setting{}) }, nil},
		"NUL in a name": {func(tx *store.Tx) error { return tx.PutSetting(&store.Setting{Name: "a\x00b"}) }, nil},
		"invalid UTF-8": {func(tx *store.Tx) error { return tx.PutSetting(&store.Setting{Name: "a", Value: "\xff"}) }, nil},
		"negative":      {second(func(v *store.Version) { v.Number = -1 }), nil},
		"no CKA_ID":     {second(func(v *store.Version) { v.CKAID = nil }), nil},
		"error of its own": {func(tx *store.Tx) error {
			tx.DeleteKey(Region, Key(1).ID)
			return context.Canceled
		}, context.Canceled},
	} {
		var put error
		for _, ignore := range []bool{false, true} {
			err := s.Update(context.Background(), func(tx *store.Tx) error {
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

// testRotation moves the current version as rotation does.
func testRotation(t *testing.T, db Database) {
	s := Open(t, db)
	Update(t, s, Sample)
	Update(t, s, func(tx *store.Tx) error {
		old, _ := tx.CurrentVersion(Key(1).ID)
		retired := *old
		retired.State = "NON_CURRENT"
		next := Version(1)
		next.Number, next.CKAID, next.MaterialID = 2, []byte("new"), "new"
		return errors.Join(tx.PutVersion(&retired), tx.PutVersion(next))
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	v := Open(t, db).View()
	current, _ := v.CurrentVersion(Key(1).ID)
	old, _ := v.Version(Key(1).ID, Version(1).MaterialID)
	if current.Number != 2 || old.State != "NON_CURRENT" {
		t.Errorf("current %+v, old %+v", current, old)
	}
}

// testCopies: rows given to Put belong to the caller.
func testCopies(t *testing.T, db Database) {
	s := Open(t, db)
	k := Key(1)
	Update(t, s, func(tx *store.Tx) error {
		err := tx.PutKey(k)
		k.State, k.Tags[0].Value = "Disabled", "changed"
		return err
	})
	stored, _ := s.View().Key(Region, k.ID)
	if !reflect.DeepEqual(stored, Key(1)) {
		t.Errorf("stored: %+v", stored)
	}
}

func testWaitAndClose(t *testing.T, db Database) {
	s := Open(t, db)
	Update(t, s, func(*store.Tx) error {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		err := s.Update(ctx, func(*store.Tx) error { panic("it was not our turn") })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("waiting with a cancelled context: %v", err)
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	err := s.Update(ctx, func(tx *store.Tx) error {
		cancel() // in the middle: the commit is not torn apart
		return tx.PutKey(Key(1))
	})
	if _, ok := s.View().Key(Region, Key(1).ID); err != nil || !ok {
		t.Errorf("cancelled in the middle: %v, committed %t", err, ok)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(context.Background(), Sample); !errors.Is(err, store.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if s.View().KeyCount(Region) != 1 {
		t.Error("views must survive Close")
	}
}

// testConcurrent moves an alias between two keys while readers check that
// they never see it elsewhere, nor a key count that was never committed.
func testConcurrent(t *testing.T, db Database) {
	s := Open(t, db)
	Update(t, s, Sample)
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
				runtime.Gosched() // or an engine that asks a server would wait for these
				v := s.View()
				a, ok := v.Alias(Region, "alias/a")
				if !ok || len(list(v.AliasesOf(Region, a.KeyID, ""), func(a *store.Alias) string { return a.Name })) == 0 ||
					v.KeyCount(Region) != len(list(v.Keys(Region, ""), func(k *store.Key) string { return k.ID })) {
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
				err := s.Update(context.Background(), func(tx *store.Tx) error {
					return errors.Join(
						tx.PutAlias(&store.Alias{Region: Region, Name: "alias/a", KeyID: Key(1 + i%2).ID}),
						tx.PutKey(Key(100*(w+1)+i)))
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
	if n := s.View().KeyCount(Region); n != 202 {
		t.Errorf("%d keys, want 202", n)
	}
}
