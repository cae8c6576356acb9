package tokens_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"cmkd/backends"
	"cmkd/testenv/rig"
)

// badInputs is how often each bad input is sent: callers do not stop after one.
const badInputs = 5

// world is a daemon on the token, and the keys that checks have made so far.
type world struct {
	*kms.Client

	rig  *rig.Rig
	keys map[string]*key
	// store is the custom key store that the keys are in, nil for the first token.
	store *string
	// short: RSA keys of 2048 bits only.
	short bool
}

// key is a key of the service's, or why there is none.
type key struct {
	id     *string
	public any    // of a pair
	der    []byte // its SubjectPublicKeyInfo
	err    error
}

func newWorld(t testing.TB, r *rig.Rig, short bool) *world {
	t.Helper()
	return &world{Client: r.Client(""), rig: r, keys: map[string]*key{}, short: short}
}

// of returns the key of a spec and usage, which is made once.
func (w *world) of(ctx context.Context, spec backends.KeySpec, usage backends.Usage) (*key, error) {
	name := string(spec) + " " + string(usage)
	k := w.keys[name]
	if k == nil {
		k = &key{}
		w.keys[name] = k
		k.make(ctx, w, spec, usage)
	}
	return k, k.err
}

func (k *key) make(ctx context.Context, w *world, spec backends.KeySpec, usage backends.Usage) {
	made, err := w.CreateKey(ctx, w.toCreate(spec, usage))
	if err != nil {
		k.err = err
		return
	}
	k.id = made.KeyMetadata.KeyId
	if usage == backends.GenerateVerifyMAC || spec == backends.SymmetricDefault {
		return
	}
	k.err = k.learn(ctx, w, spec)
}

// toCreate asks for a key of the token.
func (w *world) toCreate(spec backends.KeySpec, usage backends.Usage) *kms.CreateKeyInput {
	in := &kms.CreateKeyInput{KeySpec: types.KeySpec(spec), KeyUsage: types.KeyUsageType(usage)}
	if w.store != nil {
		in.Origin, in.CustomKeyStoreId = types.OriginTypeAwsCloudhsm, w.store
	}
	return in
}

// learn asks for the public key.
func (k *key) learn(ctx context.Context, w *world, spec backends.KeySpec) error {
	out, err := w.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: k.id})
	if err != nil {
		return err
	}
	k.der = out.PublicKey
	k.public, err = parsePublic(spec, out.PublicKey)
	return err
}

// parsePublic reads a SubjectPublicKeyInfo, apart from the code under test.
func parsePublic(spec backends.KeySpec, der []byte) (any, error) {
	if spec != backends.Secp256k1 && mlDSA[spec] == nil {
		return x509.ParsePKIXPublicKey(der)
	}
	in := cryptobyte.String(der)
	var info cryptobyte.String
	var bits []byte
	if !in.ReadASN1(&info, asn1.SEQUENCE) || !info.SkipASN1(asn1.SEQUENCE) || !info.ReadASN1BitStringAsBytes(&bits) {
		return nil, errors.New("the public key does not parse")
	}
	if scheme := mlDSA[spec]; scheme != nil {
		return scheme.UnmarshalBinaryPublicKey(bits)
	}
	return secp256k1.ParsePubKey(bits)
}

// refused returns the reason in an error that says that the token lacks something, ""
// for every other.
func refused(err error) string {
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok || e.ErrorCode() != "UnsupportedOperationException" {
		return ""
	}
	return e.ErrorMessage()
}

// fails makes a call with bad input several times and wants the same error each time.
func fails(want string, call func() error) error {
	for range badInputs {
		if got := call(); rig.Code(got) != want {
			return fmt.Errorf("bad input: %w, want %s", cmpErr(got), want)
		}
	}
	return nil
}

// cmpErr is err, or an error that says that there was none.
func cmpErr(err error) error {
	if err == nil {
		return errors.New("it succeeds")
	}
	return err
}

// restarts is how often plugins were replaced.
func (w *world) restarts(t testing.TB) (n int) {
	t.Helper()
	for _, p := range w.rig.Status(t).Plugins {
		n += p.Restarts
	}
	return n
}

// flipped returns b with one bit of its middle changed.
func flipped(b []byte) []byte {
	b = slices.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

// digest hashes a message.
func digest(h crypto.Hash, message []byte) []byte {
	state := h.New()
	_, _ = state.Write(message) // never fails: hash.Hash
	return state.Sum(nil)
}
