package daemon_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/daemon/store"
	"cmkd/testenv/rig"
)

// kinds are keys that are made quickly, one of each plugin.
var kinds = []kms.CreateKeyInput{
	{},
	{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac},
	{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify},
}

// TestDaemonKilled kills the daemon while it creates keys. After a restart
// every key that is listed works, every key that was acknowledged is listed,
// and the token holds nothing that the store does not know.
func TestDaemonKilled(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{Process: true})
	acknowledged := map[string]bool{}
	for round := range count(t, "CMKD_KILLS", 4) {
		for _, id := range createUntilKilled(t, r, 8+round) {
			acknowledged[id] = true
		}
		r.Start(t)
		c := r.Client("") // one: each keeps a connection of its own open
		for _, id := range listKeys(t, c) {
			delete(acknowledged, id)
			use(t, c, id)
		}
		for id := range acknowledged {
			t.Errorf("key %s was acknowledged and is gone", id)
		}
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	compareWithToken(t, r)
}

// createUntilKilled creates keys from several callers, kills the daemon as
// soon as n are there, and returns the IDs that were answered.
func createUntilKilled(t *testing.T, r *rig.Rig, n int) []string {
	t.Helper()
	var mu sync.Mutex
	var made []string // guarded by mu
	enough, failed := make(chan struct{}), make(chan error, 6)
	var callers sync.WaitGroup
	for caller := range cap(failed) {
		c, in := r.Client(""), kinds[caller%len(kinds)]
		callers.Go(func() {
			for {
				out, err := c.CreateKey(context.WithoutCancel(t.Context()), &in)
				if err != nil {
					failed <- err // killed, unless enough is open
					return
				}
				mu.Lock()
				if made = append(made, *out.KeyMetadata.KeyId); len(made) == n {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-enough:
	case err := <-failed:
		t.Fatalf("before the daemon was killed: %v", err)
	}
	r.Kill()
	callers.Wait()
	return made
}

func listKeys(t *testing.T, c *kms.Client) []string {
	t.Helper()
	var ids []string
	pages := kms.NewListKeysPaginator(c, &kms.ListKeysInput{Limit: aws.Int32(1000)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range page.Keys {
			ids = append(ids, *k.KeyId)
		}
	}
	return ids
}

// use does with a key what it is for.
func use(t *testing.T, c *kms.Client, id string) {
	t.Helper()
	out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
	if err != nil {
		t.Errorf("key %s: %v", id, err)
		return
	}
	switch out.KeyMetadata.KeyUsage {
	case types.KeyUsageTypeEncryptDecrypt:
		_, err = c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: []byte("text")})
	case types.KeyUsageTypeGenerateVerifyMac:
		_, err = c.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: &id, Message: []byte("text"), MacAlgorithm: types.MacAlgorithmSpecHmacSha256})
	default:
		_, err = c.Sign(t.Context(), &kms.SignInput{KeyId: &id, Message: []byte("text"), SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256})
	}
	if err != nil {
		t.Errorf("key %s (%s) does not work: %v", id, out.KeyMetadata.KeyUsage, err)
	}
}

var objectLine = regexp.MustCompile(`(?m)^(Secret Key|Private Key|Public Key) Object.*\n(?:  .*\n)*`)

// compareWithToken compares the CKA_IDs in the store of a stopped daemon with
// those in the token.
func compareWithToken(t *testing.T, r *rig.Rig) {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(r.Dir, "s", "cmkd.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	for i := range s.View().Intents() {
		t.Errorf("an intent is left: %s of key %s", i.Action, i.KeyID)
	}
	known := map[string]bool{}
	for v := range s.View().AllVersions() {
		known[fmt.Sprintf("%x", v.CKAID)] = false
	}
	for k := range s.View().AllSystemKeys() {
		known[fmt.Sprintf("%x", k.CKAID)] = false
	}
	tool := exec.CommandContext(t.Context(), "pkcs11-tool", "--module", r.Token.Module, "--token-label", r.Token.Label,
		"--login", "--pin", r.Token.PIN, "--list-objects")
	tool.Env = append(os.Environ(), r.Token.Env...)
	text, err := tool.Output() // on standard error it warns of each sensitive value
	if err != nil {
		t.Fatalf("pkcs11-tool: %v", err)
	}
	id := regexp.MustCompile(`(?m)^\s*ID:\s*([0-9a-f]+)$`)
	objects := objectLine.FindAllString(string(text), -1)
	for _, o := range objects {
		m := id.FindStringSubmatch(o)
		if m == nil {
			t.Errorf("an object without an ID:\n%s", o)
			continue
		}
		if _, ok := known[m[1]]; !ok {
			t.Errorf("an object that no row names:\n%s", o)
		}
		if !strings.HasPrefix(o, "Public") {
			known[m[1]] = true
		}
	}
	for id, found := range known {
		if !found {
			t.Errorf("no object in the token for %s", id)
		}
	}
	t.Logf("%d objects for %d keys", len(objects), len(known))
}

// TestPluginsKilledInCreation kills plugins while they create keys: callers
// see no error, and the token holds what the store knows, no more.
func TestPluginsKilledInCreation(t *testing.T) {
	t.Parallel()
	// SoftHSM2 opens a token slowly while others create keys in it, the slower
	// the more it holds. So after a few rounds the next token begins.
	const most = 4
	for left := count(t, "CMKD_KILLS", 3); left > 0; left -= most {
		t.Run(fmt.Sprintf("%d left", left), func(t *testing.T) {
			killPluginsInCreation(t, min(left, most))
		})
	}
}

// killPluginsInCreation kills each plugin once in each round.
func killPluginsInCreation(t *testing.T, rounds int) {
	t.Helper()
	r := rig.New(t, rig.Config{Process: true})
	turns := make(chan struct{}) // each is one key
	var callers sync.WaitGroup
	var made atomic.Int64
	for caller := range 6 {
		c, in := r.Client(""), kinds[caller%len(kinds)]
		callers.Go(func() {
			for range turns {
				if _, err := c.CreateKey(t.Context(), &in); err != nil {
					t.Errorf("CreateKey: %v", err)
				}
				made.Add(1)
			}
		})
	}
	for range rounds {
		for _, name := range pluginNames {
			pid, _, _ := plugin(t, r, name)
			for n := range 18 {
				turns <- struct{}{}
				if n == 8 { // six of them are under way
					signal(t, pid, syscall.SIGKILL)
				}
			}
			replaced(t, r, name, pid)
		}
	}
	close(turns)
	callers.Wait()
	t.Logf("%d keys", made.Load())
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	compareWithToken(t, r)
}
