package kms_test

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cmkd/backends"
	"cmkd/daemon/audit"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/kms"
	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
	"cmkd/socket/kmsapi"
	"cmkd/testenv/memory"
)

// ownKeys is a token in memory that also holds the daemon's own keys: that of the
// audit trail, which signs nothing here, and no wrapping key.
type ownKeys struct{ *memory.Router }

func (o ownKeys) Route(token string, spec backends.KeySpec) (keyring.Backend, backends.SpecInfo, bool) {
	if spec == backends.AES256 {
		return o, backends.SpecInfo{Spec: spec, Unsupported: "CKM_AES_KEY_WRAP_PAD"}, true
	}
	if spec == backends.P256 {
		return o, backends.SpecInfo{Spec: spec, Usages: []backends.Usage{backends.SignVerify}}, true
	}
	_, info, ok := o.Router.Route(token, spec)
	return o, info, ok
}

func (o ownKeys) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	if in.Key.Spec != backends.P256 {
		return o.Router.CreateKey(ctx, in)
	}
	o.Put(in.Key, in.Label, nil)
	made, err := o.CheckKey(ctx, &backends.CheckKeyRequest{Key: in.Key})
	if err != nil {
		return nil, err
	}
	return &backends.CreateKeyAnswer{PublicKey: made.PublicKey}, nil
}

// trusted is a service whose database is authenticated, as that of a daemon is.
func trusted(t *testing.T) *inMemory {
	t.Helper()
	return trustedWith(t, func(*kms.Config) {})
}

func trustedWith(t *testing.T, change func(*kms.Config)) *inMemory {
	t.Helper()
	trail, err := audit.Open(audit.Config{Dir: filepath.Join(t.TempDir(), "audit")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = trail.Close() })
	s := newInMemoryWith(t, func(cfg *kms.Config) {
		cfg.Router, cfg.Trail = ownKeys{cfg.Router.(*memory.Router)}, trail
		change(cfg)
	})
	if _, err := s.service.Init(t.Context(), "main"); err != nil {
		t.Fatal(err)
	}
	s.verify()
	if m := s.service.Mismatch(); m != nil {
		t.Fatalf("a new database does not verify: %+v", m)
	}
	return s
}

func (s *inMemory) verify() {
	s.t.Helper()
	if err := s.service.VerifyState(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// restart starts a service on the same token and database.
func (s *inMemory) restart() {
	s.t.Helper()
	if err := s.cfg.Store.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.cfg.Store = storetest.Open(s.t, s.disk)
	s.service = kms.New(s.cfg)
	s.verify()
}

// operate does what an operator asks for.
func (s *inMemory) operate(name string, f func(c *journal.Call) error) error {
	s.t.Helper()
	return s.service.Operate(s.t.Context(), s.caller, &kmsapi.Request{Operation: name, RequestID: "o"}, f)
}

func (s *inMemory) accept(root string) error {
	return s.operate("AcceptState", func(c *journal.Call) error { return s.service.AcceptState(s.t.Context(), c, root) })
}

// TestTamperedRows: rows that somebody has changed are found by a check and by the
// next start. Until an operator accepts them no key is used and nothing changes,
// and the rows can be looked at.
func TestTamperedRows(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T, *inMemory){
		"check": func(t *testing.T, s *inMemory) {
			if err := s.service.CheckState(t.Context()); err != nil {
				t.Error(err)
			}
		},
		"start": func(_ *testing.T, s *inMemory) { s.restart() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := trusted(t)
			id := s.newKey(nil)
			blob := s.call("", "Encrypt", map[string]any{"KeyId": id, "Plaintext": "eA=="})["CiphertextBlob"]
			s.call("", "CreateAlias", map[string]any{"AliasName": "alias/gone", "TargetKeyId": id})
			s.restart() // nothing has changed, and a new epoch begins
			if err := s.service.CheckState(t.Context()); err != nil || s.service.Mismatch() != nil {
				t.Fatalf("%v, %+v", err, s.service.Mismatch())
			}
			s.disk.DeleteRows(t, "aliases")
			start(t, s)
			m := s.service.Mismatch()
			if m == nil || len(m.Differences) != 1 || !m.Exact ||
				m.Differences[0] != (store.Difference{Table: "aliases", Row: `["us-east-1","alias/gone"]`, Kind: "missing"}) {
				t.Fatalf("%+v", m)
			}
			for operation, in := range map[string]map[string]any{
				"Encrypt": {"KeyId": id, "Plaintext": "eA=="}, "Decrypt": {"CiphertextBlob": blob},
				"CreateKey": {}, "DisableKey": {"KeyId": id}, "GenerateRandom": {"NumberOfBytes": 8},
			} {
				s.call(kmsapi.CodeKMSInvalidStateException, operation, in)
			}
			s.call("", "DescribeKey", map[string]any{"KeyId": id})
			if err := s.operate("Recover", func(c *journal.Call) error { _, err := s.service.Recover(t.Context(), c, nil); return err }); err == nil {
				t.Error("keys are recovered into a database that does not verify")
			}
			if err := s.accept("00"); !errors.Is(err, store.ErrChanged) {
				t.Errorf("another state than the one that is there: %v", err)
			}
			if err := s.accept(m.Root); err != nil || s.service.Mismatch() != nil {
				t.Fatalf("accepted: %v, %+v", err, s.service.Mismatch())
			}
			s.call("", "Decrypt", map[string]any{"CiphertextBlob": blob})
			s.restart()
			s.call("", "Decrypt", map[string]any{"CiphertextBlob": blob})
			s.call(kmsapi.CodeNotFoundException, "DescribeKey", map[string]any{"KeyId": "alias/gone"})
		})
	}
}

// TestAcceptanceInVain: a state key that was made for a database that is not accepted after all does not
// stay in the token.
func TestAcceptanceInVain(t *testing.T) {
	t.Parallel()
	s := trusted(t)
	objects := s.token.Objects()
	maps.DeleteFunc(objects, func(_ backends.KeyID, o memory.Object) bool {
		return strings.Contains(o.Label, "system-state") || o.Key.Spec == backends.P256
	})
	s.token.SetObjects(objects)
	s.restart()
	m := s.service.Mismatch()
	if m == nil {
		t.Fatal("a database without its state key verifies")
	}
	if err := s.accept(m.Root); err == nil {
		t.Fatal("it is accepted without an audit key")
	}
	if n := len(s.token.Objects()); n != len(objects) {
		t.Errorf("%d objects are in the token, and were %d", n, len(objects))
	}
}

// doubting is ownKeys whose token is unsure of the next state keys.
type doubting struct {
	ownKeys
	unsure int
	made   map[backends.KeyID]bool // of which it was
}

func (d *doubting) Route(token string, spec backends.KeySpec) (keyring.Backend, backends.SpecInfo, bool) {
	_, info, ok := d.ownKeys.Route(token, spec)
	return d, info, ok
}

func (d *doubting) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	made, err := d.ownKeys.CreateKey(ctx, in)
	if err == nil && in.Key.Spec == backends.HMAC256 && d.unsure > 0 {
		d.unsure--
		d.made[in.Key.ID], made.Unsure = true, true
	}
	return made, err
}

// TestAcceptanceInDoubt: no database is accepted under a state key that may have been made twice.
func TestAcceptanceInDoubt(t *testing.T) {
	t.Parallel()
	s := trusted(t)
	objects := s.token.Objects()
	maps.DeleteFunc(objects, func(_ backends.KeyID, o memory.Object) bool { return strings.Contains(o.Label, "system-state") })
	s.token.SetObjects(objects)
	d := &doubting{ownKeys: s.cfg.Router.(ownKeys), made: map[backends.KeyID]bool{}}
	s.cfg.Router = d
	s.restart()
	m := s.service.Mismatch()
	if m == nil {
		t.Fatal("a database without its state key verifies")
	}
	d.unsure = journal.MaxCreations
	if err := s.accept(m.Root); !errors.Is(err, keyring.ErrUnanswered) || d.unsure != 0 {
		t.Errorf("when the token is unsure of each key: %v; %d more", err, d.unsure)
	}
	if n := len(s.token.Objects()); n != len(objects) {
		t.Errorf("%d objects are in the token, and were %d", n, len(objects))
	}
	d.unsure = 1
	if err := s.accept(m.Root); err != nil {
		t.Fatal(err)
	}
	for _, o := range s.token.Objects() {
		for id := range d.made {
			if strings.Contains(o.Label, id.String()) {
				t.Errorf("the lineage is that of a key in doubt: %s", o.Label)
			}
		}
	}
	if n := len(s.token.Objects()); n != len(objects)+1 {
		t.Errorf("%d objects are in the token, want %d", n, len(objects)+1)
	}
}

// TestOlderCopy: a copy of the database of an earlier day does not verify, however
// whole it is.
func TestOlderCopy(t *testing.T) {
	t.Parallel()
	s := trusted(t)
	id := s.newKey(nil)
	restore := s.disk.Copy(t)
	s.call("", "DisableKey", map[string]any{"KeyId": id})
	s.restart()
	if err := s.cfg.Store.Close(); err != nil {
		t.Fatal(err)
	}
	restore()
	s.cfg.Store = storetest.Open(t, s.disk)
	s.service = kms.New(s.cfg)
	s.verify()
	if s.service.Mismatch() == nil {
		t.Error("an older copy of the database verifies")
	}
	s.call(kmsapi.CodeKMSInvalidStateException, "Encrypt", map[string]any{"KeyId": id, "Plaintext": "eA=="})
}

// TestRecoverLost: keys of which only the token knows come back disabled, with
// their materials, and decrypt what they encrypted.
func TestRecoverLost(t *testing.T) {
	t.Parallel()
	s := trusted(t)
	id := s.newKey(nil)
	mac := s.newKey(map[string]any{"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"})
	blob := s.call("", "Encrypt", map[string]any{"KeyId": id, "Plaintext": "eA=="})["CiphertextBlob"]
	s.call("", "RotateKeyOnDemand", map[string]any{"KeyId": id})
	for _, table := range []string{"keys", "versions"} {
		s.disk.DeleteRows(t, table)
	}
	s.restart()
	if m := s.service.Mismatch(); m == nil || s.accept(m.Root) != nil {
		t.Fatalf("%+v", m)
	}
	s.call(kmsapi.CodeNotFoundException, "DescribeKey", map[string]any{"KeyId": id})
	recovered := func(adopt func(string) bool) *keyring.Inventory {
		t.Helper()
		var inventory *keyring.Inventory
		if err := s.operate("Recover", func(c *journal.Call) (err error) {
			inventory, err = s.service.Recover(t.Context(), c, adopt)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return inventory
	}
	var found []string
	for _, k := range recovered(nil).Found {
		if k.Problem != "" || k.Recovered {
			t.Errorf("%+v", k)
		}
		found = append(found, k.KeyID)
	}
	if !slices.Contains(found, id) || !slices.Contains(found, mac) || len(found) != 2 {
		t.Fatalf("found %q, want %s and %s", found, id, mac)
	}
	recovered(func(keyID string) bool { return keyID == id })
	s.call(kmsapi.CodeNotFoundException, "DescribeKey", map[string]any{"KeyId": mac})
	metadata, _ := s.call("", "DescribeKey", map[string]any{"KeyId": id})["KeyMetadata"].(map[string]any)
	if metadata["KeyState"] != "Disabled" || metadata["KeySpec"] != "SYMMETRIC_DEFAULT" {
		t.Errorf("%v", metadata)
	}
	s.call("", "EnableKey", map[string]any{"KeyId": id})
	s.call("", "Decrypt", map[string]any{"CiphertextBlob": blob})
}
