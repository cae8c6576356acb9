package tokens_test

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/backends"
	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// further asks everything of a token that cannot be the first one: the keys are in a custom
// key store, and the first token is one of SoftHSM2.
func further(t *testing.T, tok *testenv.Token, found *report) {
	t.Helper()
	first := testenv.NewSoftHSM2(t, mkdirTemp(t), "first")
	r := rig.Prepare(t, rig.Config{Token: first, Now: clock, Tables: rig.SigningToken("second", rig.Cluster, tok)})
	r.Initialise(t)
	r.Start(t)
	store := rig.NewKeyStore(t, r.Client(""))
	w := newWorld(t, r, os.Getenv(long) == "")
	w.store = &store
	askAll(t, w, furtherChecks(w.short), found)
	found.note(check{capability: "restart", name: "more keys than one process has room for"}, manyKeys(t, w, tok))
	liveFurther(t, w, tok, found)
}

// mkdirTemp is a folder that goes with the test.
func mkdirTemp(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "first")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// many is how many keys are made and used at the same time: more than fit into a process of
// tpm2-pkcs11, which has room for 13 new ones, or for 26 that it uses.
const many = 30

// manyKeys makes and uses many keys. Each signs in turn, twice, and the callers notice nothing.
func manyKeys(t *testing.T, w *world, tok *testenv.Token) error {
	t.Helper()
	ctx := t.Context()
	var all []*key
	for range many {
		k := &key{}
		if k.make(ctx, w, backends.P256, backends.SignVerify); k.err != nil {
			return fmt.Errorf("key %d: %w", len(all)+1, k.err)
		}
		all = append(all, k)
	}
	for range 2 {
		for i, k := range all {
			if err := w.signs(ctx, k); err != nil {
				return fmt.Errorf("a signature by key %d: %w", i+1, err)
			}
		}
	}
	// Their handles are free for others then.
	if err := w.destroyNow(t, tok, all[:many/2]); err != nil {
		return err
	}
	for range many / 2 {
		again := &key{}
		if again.make(ctx, w, backends.P256, backends.SignVerify); again.err != nil {
			return again.err
		}
		all = append(all, again)
	}
	for i, k := range all[many/2:] {
		if err := w.signs(ctx, k); err != nil {
			return fmt.Errorf("a signature by key %d after others were destroyed: %w", i+1, err)
		}
	}
	if n := w.restarts(t); n != 0 {
		return fmt.Errorf("%d plugins were lost", n)
	}
	return nil
}

// signs fails unless a P-256 key signs for its public key.
func (w *world) signs(ctx context.Context, k *key) error {
	digest := make([]byte, 32)
	out, err := w.Sign(ctx, &kms.SignInput{
		KeyId: k.id, Message: digest, MessageType: types.MessageTypeDigest, SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256,
	})
	if err == nil && !ecdsa.VerifyASN1(k.public.(*ecdsa.PublicKey), digest, out.Signature) {
		return errors.New("the signature is another key's")
	}
	return err
}

// destroyNow has keys deleted, and their time come.
func (w *world) destroyNow(t *testing.T, tok *testenv.Token, all []*key) error {
	t.Helper()
	for _, k := range all {
		if _, err := w.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: k.id, PendingWindowInDays: aws.Int32(7)}); err != nil {
			return err
		}
	}
	want := objects(t, tok) - 2*len(all)
	const step = 20 * time.Hour // deletions are held if a day is missing
	for passed := time.Duration(0); passed < 8*rig.Day; passed += step {
		ahead.Add(int64(step))
		if err := w.rig.Daemon.RunJobs(t.Context()); err != nil {
			return err
		}
	}
	if n := objects(t, tok); n != want {
		return fmt.Errorf("the token has %d objects after keys were destroyed, want %d", n, want)
	}
	return nil
}

// furtherChecks are those of keys that a custom key store may have.
func furtherChecks(short bool) []check {
	var all []check
	for _, c := range checks(short) {
		if c.capability != "import" && !ofFirst(c) {
			all = append(all, c)
		}
	}
	return all
}

// ofFirst reports whether a check is one of the first token alone: of imports, and of
// recipients' keys.
func ofFirst(c check) bool {
	return strings.HasPrefix(c.name, "an imported ") || strings.HasPrefix(c.name, "a recipient's key ")
}

// liveFurther is live with a key that signs.
func liveFurther(t *testing.T, w *world, tok *testenv.Token, found *report) {
	t.Helper()
	r := w.rig
	k, err := w.of(t.Context(), backends.P256, backends.SignVerify)
	if err != nil {
		t.Fatal(err)
	}
	same := func() error { return newWorld(t, r, true).signs(t.Context(), k) }
	found.note(check{capability: "restart", name: "a plugin that is killed"}, killed(t, r, same))
	found.note(check{capability: "restart", name: "plugins that are killed while they probe"}, killedProbes(t, r, tok, same))
	found.note(check{capability: "restart", name: "plugins that are killed while they make keys"}, killedCreations(t, w, tok))
	lives(t, r, found, same)
	rig.NewKeyStore(t, r.Client(""))
	found.note(check{capability: "recover", name: "recover --adopt"}, recovered(t, r, k.id, same))
}
