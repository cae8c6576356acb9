package kms

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

// demand is what a call wants of a key. The operation's row says the rest.
type demand struct {
	keyID       string             // as the client wrote it
	action      *keys.Action       // nil means the operation's
	region      string             // "" means the call's; ReplicateKey acts in another too
	algorithm   backends.Algorithm // must be one of the key's; "" means none is asked for
	grantTokens []string
	context     map[string]string // encryption context
	conditions  []condition
	presets     []string     // those of conditions that have a default, since the request has no value
	grant       *store.Grant // that CreateGrant would make
	// ciphertext holds the ciphertext of the call against the key, nil if
	// there is none.
	ciphertext func(*store.Key) error
	// otherKey is the other key of ReEncrypt, as the client wrote it.
	otherKey string
	// plaintextDataKey: a data key would leave in the clear.
	plaintextDataKey bool

	memory struct { // for say
		conditions [2]condition
		values     [2]string
	}
}

// say adds a condition key with one value to those of a demand, which has got all that it has
// from say and is no copy of another.
func (d *demand) say(name, value string) {
	i, m := len(d.conditions), &d.memory
	if i >= len(m.conditions) {
		d.conditions = append(d.conditions, says(name, value))
		return
	}
	m.values[i] = value
	m.conditions[i] = condition{name, m.values[i : i+1 : i+1]}
	d.conditions = m.conditions[: i+1 : i+1]
}

// condition is a condition key of the request, such as
// kms:EncryptionAlgorithm, with its values.
type condition struct {
	name   string
	values []string
}

// says is the condition key with one value.
func says[T ~string](name string, value T) condition { return condition{name, []string{string(value)}} }

// key is a key that a call may use.
type key struct {
	*store.Key
	arn     string
	state   kmsapi.KeyState
	view    *store.View
	backend keyring.Backend
	service *Service
	// asked is what the policies are asked, and context what they learn of the call.
	asked   policy.Request
	context keyContext
}

// served is a call that is served, and the key that nearly every one is about, in one piece
// of memory.
type served struct {
	call  journal.Call
	key   key
	taken bool
}

// newServed begins a call.
func (s *Service) newServed(caller *journal.Caller, r *kmsapi.Request) *journal.Call {
	c := new(served)
	c.call.Server = c
	s.InitCall(&c.call, caller, r)
	return &c.call
}

// newKey is for a key that the call is about.
func newKey(c *journal.Call) *key {
	of, ok := c.Server.(*served)
	if !ok || of.taken {
		return new(key)
	}
	of.taken = true
	return &of.key
}

// admit is the one door to a key. It resolves what the client wrote, then
// authorises the caller, then holds the call against the key's usage, state
// and algorithms, in this order: the policy hangs on the key, a stranger must
// not learn a state, and the rest is the order in which AWS checks.
func (s *Service) admit(ctx context.Context, c *journal.Call, d *demand) (*key, error) {
	if err := checkGrantTokens(d.grantTokens); err != nil {
		return nil, err
	}
	if err := checkContext(d.context); err != nil {
		return nil, err
	}
	if c.Op.Aliases {
		if err := s.ensureManaged(ctx, c, d); err != nil {
			return nil, err
		}
	}
	row, id, err := s.resolve(c.View, c.Region, d.keyID, c.Op.Aliases)
	if err != nil {
		return nil, s.conceal(c, d, err)
	}
	return s.admitKey(ctx, c, d, row, id)
}

// admitKey is admit for a key that is known already, such as the one that a
// ciphertext names.
func (s *Service) admitKey(_ context.Context, c *journal.Call, d *demand, row *store.Key, id identifier) (*key, error) {
	k := newKey(c)
	*k = key{Key: row, arn: s.KeyARN(row.Region, row.ID), view: c.View, service: s}
	c.Admitted(s.Journal, k.arn)
	if err := s.authorise(c, d, k, id); err != nil {
		return nil, err
	}
	if c.Op.Origin != "" && row.Origin != c.Op.Origin {
		return nil, wrongOrigin(k)
	}
	if d.ciphertext != nil {
		if err := d.ciphertext(row); err != nil {
			return nil, err
		}
	}
	if action := d.actionOf(c); action.Usage != "" && row.Usage != action.Usage {
		return nil, kmsapi.Errorf(kmsapi.CodeInvalidKeyUsageException,
			"%s key usage is %s which is not valid for %s.", k.arn, row.Usage, action.Name)
	}
	k.state = s.keyState(c.View, row)
	if err := checkState(c.Op, k.arn, k.state); err != nil {
		return nil, err
	}
	if d.algorithm != "" && !allowsAlgorithm(row, d.algorithm) {
		return nil, kmsapi.Errorf(kmsapi.CodeInvalidKeyUsageException,
			"Algorithm %s is incompatible with key spec %s.", d.algorithm, row.Spec)
	}
	b, _, ok := s.Router.Route(row.Token, row.Spec)
	if !ok && c.Op.Uses {
		return nil, journal.InvalidState(k.arn, "unavailable")
	}
	k.backend = b
	if c.Op.Uses {
		c.Used = append(c.Used, row)
	}
	return k, nil
}

func wrongOrigin(k *key) error {
	return kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException,
		"%s origin is %s which is not valid for this operation.", k.arn, k.Origin)
}

func allowsAlgorithm(row *store.Key, algorithm backends.Algorithm) bool {
	for _, a := range keys.Specs[row.Spec].Algorithms[row.Usage] {
		if a == algorithm {
			return true
		}
	}
	return false
}

// errDryRun is the answer to a call that would have succeeded.
func errDryRun() error {
	return kmsapi.Errorf(kmsapi.CodeDryRunOperationException, "The request would have succeeded, but the DryRun option is set.")
}

// current returns the version of the key that new ciphertexts are made with.
func (k *key) current() (*store.Version, error) {
	v, ok := k.view.CurrentVersion(k.ID)
	if !ok {
		return nil, journal.InvalidState(k.arn, "unavailable")
	}
	return v, k.usable(v)
}

// ref names a version of the key to its backend.
func (k *key) ref(v *store.Version) backends.Key {
	return backends.Key{
		ID:       keyring.ObjectID(v.CKAID),
		Spec:     k.Spec,
		Usage:    k.Usage,
		Imported: v.Imported,
	}
}

// currentRef is ref of the current version.
func (k *key) currentRef() (backends.Key, error) {
	v, err := k.current()
	if err != nil {
		return backends.Key{}, err
	}
	return k.ref(v), nil
}

// usable refuses a version whose object is one of two: the plugin does so too, once
// it has looked.
func (k *key) usable(v *store.Version) error {
	if k.service.Duplicated(v.CKAID) {
		return backends.Errorf(backends.KeyDuplicate, "more than one object has CKA_ID %x", v.CKAID)
	}
	return nil
}
