package access

import (
	"context"

	"cmkd/backends"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/keys"
	"cmkd/daemon/policy"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// Key is a key that a call may use.
type Key struct {
	*store.Key
	ARN      string
	StateNow kmsapi.KeyState // State is what its row says
	View     *store.View
	Backend  keyring.Backend // nil if no plugin serves it and the operation does not use it
	access   *Access
	// asked is what the policies are asked, and context what they learn of the call.
	asked   policy.Request
	context keyContext
}

// served is a call that is served, and the key that nearly every one is about, in one piece
// of memory.
type served struct {
	call  journal.Call
	key   Key
	taken bool
}

// Begin begins a call.
func (s *Access) Begin(caller *journal.Caller, r *kmsapi.Request) *journal.Call {
	c := new(served)
	c.call.Server = c
	s.InitCall(&c.call, caller, r)
	return &c.call
}

// newKey is for a key that the call is about.
func newKey(c *journal.Call) *Key {
	of, ok := c.Server.(*served)
	if !ok || of.taken {
		return new(Key)
	}
	of.taken = true
	return &of.key
}

// Admit is the one door to a key. It resolves what the client wrote, then
// authorises the caller, then checks the call against the key's usage, state
// and algorithms, in this order: the policy hangs on the key, a stranger must
// not learn a state, and the rest is the order in which AWS checks.
func (s *Access) Admit(ctx context.Context, c *journal.Call, d *Demand) (*Key, error) {
	if err := CheckGrantTokens(d.GrantTokens); err != nil {
		return nil, err
	}
	if err := CheckContext(d.Context); err != nil {
		return nil, err
	}
	if c.Op.Aliases {
		if err := s.keepPromise(ctx, c, d); err != nil {
			return nil, err
		}
	}
	row, alias, err := s.Resolve(c.View, c.Region, d.KeyID, c.Op.Aliases)
	if err != nil {
		return nil, s.Conceal(c, d, err)
	}
	return s.AdmitKey(ctx, c, d, row, alias)
}

// AdmitKey is Admit for a key that is known already, such as the one that a
// ciphertext names.
func (s *Access) AdmitKey(_ context.Context, c *journal.Call, d *Demand, row *store.Key, alias string) (*Key, error) {
	k := newKey(c)
	*k = Key{Key: row, ARN: s.KeyARN(row.Region, row.ID), View: c.View, access: s}
	c.Admitted(s.Journal, k.ARN)
	if err := s.authorise(c, d, k, alias); err != nil {
		return nil, err
	}
	if c.Op.Origin != "" && row.Origin != c.Op.Origin {
		return nil, WrongOrigin(k)
	}
	if d.Ciphertext != nil {
		if err := d.Ciphertext(row); err != nil {
			return nil, err
		}
	}
	if action := d.actionOf(c); action.Usage != "" && row.Usage != action.Usage {
		return nil, kmsapi.Errorf(kmsapi.CodeInvalidKeyUsageException,
			"%s key usage is %s which is not valid for %s.", k.ARN, row.Usage, action.Name)
	}
	k.StateNow = s.KeyState(c.View, row)
	if err := CheckState(c.Op, k.ARN, k.StateNow); err != nil {
		return nil, err
	}
	if d.Algorithm != "" && !allowsAlgorithm(row, d.Algorithm) {
		return nil, kmsapi.Errorf(kmsapi.CodeInvalidKeyUsageException,
			"Algorithm %s is incompatible with key spec %s.", d.Algorithm, row.Spec)
	}
	b, _, ok := s.Router.Route(row.Token, row.Spec)
	if !ok && c.Op.Uses {
		return nil, journal.InvalidState(k.ARN, "unavailable")
	}
	k.Backend = b
	if c.Op.Uses {
		c.Used = append(c.Used, row)
	}
	return k, nil
}

// Readmit looks at the state of an admitted key again, inside of a transaction, and returns
// its row.
func (s *Access) Readmit(tx *store.Tx, c *journal.Call, k *Key) (*store.Key, error) {
	now, ok := tx.Key(k.Region, k.ID)
	if !ok {
		return nil, kmsapi.Errorf(kmsapi.CodeNotFoundException, "Key '%s' does not exist", k.ARN)
	}
	return now, CheckState(c.Op, k.ARN, s.KeyState(tx, now))
}

// WrongOrigin refuses an operation that the origin of the key does not have.
func WrongOrigin(k *Key) error {
	return kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException,
		"%s origin is %s which is not valid for this operation.", k.ARN, k.Origin)
}

func allowsAlgorithm(row *store.Key, algorithm backends.Algorithm) bool {
	for _, a := range keys.Specs[row.Spec].Algorithms[row.Usage] {
		if a == algorithm {
			return true
		}
	}
	return false
}

// Current returns the version of the key that new ciphertexts are made with.
func (k *Key) Current() (*store.Version, error) {
	v, ok := k.View.CurrentVersion(k.ID)
	if !ok {
		return nil, journal.InvalidState(k.ARN, "unavailable")
	}
	return v, k.Usable(v)
}

// Ref names a version of the key to its backend.
func (k *Key) Ref(v *store.Version) backends.Key {
	return backends.Key{
		ID:       keyring.ObjectID(v.CKAID),
		Spec:     k.Spec,
		Usage:    k.Usage,
		Imported: v.Imported,
	}
}

// CurrentRef is Ref of the current version.
func (k *Key) CurrentRef() (backends.Key, error) {
	v, err := k.Current()
	if err != nil {
		return backends.Key{}, err
	}
	return k.Ref(v), nil
}

// Usable refuses a version whose object is one of two: the plugin does so too, once
// it has looked.
func (k *Key) Usable(v *store.Version) error {
	if k.access.Duplicated(v.CKAID) {
		return backends.Errorf(backends.KeyDuplicate, "more than one object has CKA_ID %x", v.CKAID)
	}
	return nil
}
