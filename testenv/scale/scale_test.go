package scale

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/google/uuid"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/daemon/store"
	"cmkd/daemon/store/sqlite"
	"cmkd/testenv"
	"cmkd/testenv/rig"
	"cmkd/testenv/shim"
)

// scaleVariable is set by `make scale`: the number of keys. With it the test
// also checks the times against what they must be; without it the machine is
// not the test's own.
const scaleVariable = "CMKD_SCALE"

// TestScale fills a token with keys, starts the daemon and encrypts under each
// of them: the token is searched once, at the start, not in the calls.
func TestScale(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		keys, timed := 1000, false
		if s := os.Getenv(scaleVariable); s != "" {
			n, err := strconv.Atoi(s)
			if err != nil {
				t.Fatalf("%s: %v", scaleVariable, err)
			}
			keys, timed = n, true
		}
		m := shim.New(t, tok.Module)
		r := rig.New(t, rig.Config{Token: tok, Module: m.Path, Env: rig.Variables(m.Env), Process: true})
		ids := fill(t, r, keys)
		r.Start(t)
		rig.Accept(t, r)
		if err := r.Stop(); err != nil {
			t.Fatal(err)
		}

		rounds := 1
		if timed {
			rounds = 3
		}
		startup, bare := startTimes(t, r, rounds)
		t.Logf("started with %d keys in %v, %.2f times a bare listing of the token (%v)",
			keys, startup.Round(time.Millisecond), startup.Seconds()/bare.Seconds(), bare.Round(time.Millisecond))
		if got := len(listKeys(t, r.Client(""))); got != keys {
			t.Errorf("ListKeys gives %d keys, want %d", got, keys)
		}
		searchesNone(t, m, r, ids)

		small := rig.New(t, rig.Config{Module: m.Path, Env: rig.Variables(m.Env), Process: true})
		few, many := p50s(t, small, createKeys(t, small, 10), r, ids)
		t.Logf("p50 of Encrypt: %v with 10 keys, %v with %d keys (%+.1f %%)", few, many, keys, 100*(float64(many)/float64(few)-1))
		if !timed {
			return
		}
		if startup > 2*bare {
			t.Errorf("started in %v, want at most twice the %v of a bare listing", startup, bare)
		}
		if float64(many) > 1.2*float64(few) {
			t.Errorf("p50 of Encrypt is %v, want at most 20 %% more than %v", many, few)
		}
	})
}

// searchesNone encrypts under each key and counts the searches.
func searchesNone(t *testing.T, m *shim.Module, r *rig.Rig, ids []string) {
	t.Helper()
	c := r.Client("")
	var n uint64
	// Beside the first calls the daemon looks for duplicates, once a minute at most.
	for range 3 {
		before := m.Control.Calls("C_FindObjectsInit")
		for _, id := range ids {
			if _, err := encrypt(t.Context(), c, id); err != nil {
				t.Fatal(err)
			}
		}
		if n = m.Control.Calls("C_FindObjectsInit") - before; n == 0 {
			return
		}
	}
	t.Errorf("encrypting under %d keys searched the token %d times", len(ids), n)
}

// fill stops the daemon and makes keys as it makes them, without a
// transaction for each: in the token by the backend, and in the store by
// copying the rows of one that it made. The daemon has to accept them.
func fill(t *testing.T, r *rig.Rig, n int) []string {
	t.Helper()
	ids := createKeys(t, r, 1)
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	token, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: r.Token.Module, TokenLabel: r.Token.Label, PINFile: r.Token.PINFile})
	if err != nil {
		t.Fatal(err)
	}
	b := pkcs11.NewSymmetric(token)
	s, err := sqlite.Open(t.Context(), filepath.Join(r.Dir, "s", "cmkd.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	err = s.Adopt(t.Context(), nobody{}, s.View().Root(), func(tx *store.Tx) error {
		key, _ := tx.Key(rig.Region, ids[0])
		version, _ := tx.CurrentVersion(ids[0])
		for len(ids) < n {
			k, v := *key, *version
			k.ID = uuid.NewString()
			v.KeyID, v.CKAID, v.MaterialID = k.ID, make([]byte, 16), strings.Repeat(strings.ReplaceAll(k.ID, "-", ""), 2)
			_, _ = rand.Read(v.CKAID)
			if _, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{
				Key:   backends.Key{ID: backends.KeyID(v.CKAID), Spec: k.Spec, Usage: k.Usage},
				Label: fmt.Sprintf("cmkd:%s:1", k.ID),
			}); err != nil {
				return err
			}
			if err := errors.Join(tx.PutKey(&k), tx.PutVersion(&v)); err != nil {
				return err
			}
			ids = append(ids, k.ID)
		}
		return nil
	})
	if err := errors.Join(err, s.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d keys made in %v", n, time.Since(begun).Round(time.Millisecond))
	return ids
}

// nobody authenticates heads with a MAC that verifies nowhere.
type nobody struct{}

func (nobody) Verify(context.Context, *store.View, *store.View, *store.Sealed) error { return nil }

func (nobody) Seal(_ context.Context, _ *store.View, head *store.Head) ([]byte, error) {
	head.Lineage, head.Epoch = "none", 1
	return []byte("none"), nil
}

func createKeys(t *testing.T, r *rig.Rig, n int) []string {
	t.Helper()
	ids := make([]string, n)
	c := r.Client("")
	var callers sync.WaitGroup
	const width = 16
	for caller := range width {
		callers.Go(func() {
			for i := caller; i < n; i += width {
				out, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{})
				if err != nil {
					t.Errorf("CreateKey: %v", err)
					return
				}
				ids[i] = *out.KeyMetadata.KeyId
			}
		})
	}
	callers.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return ids
}

// p50s measures two daemons in turns, so that what else the machine does
// falls on both alike.
func p50s(t *testing.T, a *rig.Rig, aIDs []string, b *rig.Rig, bIDs []string) (time.Duration, time.Duration) {
	t.Helper()
	const calls = 2000
	var took [2][]time.Duration
	clients := [2]*kms.Client{a.Client(""), b.Client("")}
	ids := [2][]string{aIDs, bIDs}
	for i := range calls {
		for n, c := range clients {
			// Strides over all of the keys.
			id := ids[n][(i*7919)%len(ids[n])]
			begun := time.Now()
			if _, err := encrypt(t.Context(), c, id); err != nil {
				t.Fatal(err)
			}
			took[n] = append(took[n], time.Since(begun))
		}
	}
	slices.Sort(took[0])
	slices.Sort(took[1])
	return took[0][calls/2], took[1][calls/2]
}
