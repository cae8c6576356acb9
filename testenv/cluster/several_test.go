package cluster

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	clientv3 "go.etcd.io/etcd/client/v3"

	"cmkd/daemon/store"
	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// nodes starts daemons on one prefix and one token, the first of which makes the keys.
func nodes(t testing.TB, server *etcd.Server, n int, process bool) []*rig.Rig {
	t.Helper()
	return nodesOf(t, []*etcd.Server{server}, n, process)
}

// nodesOf is nodes with a database in several servers.
func nodesOf(t testing.TB, servers []*etcd.Server, n int, process bool) []*rig.Rig {
	t.Helper()
	var endpoints []string
	for _, s := range servers {
		endpoints = append(endpoints, strconv.Quote(s.Endpoint))
	}
	store := staleness + "endpoints = [" + strings.Join(endpoints, ", ") + "]\n"
	all := []*rig.Rig{rig.New(t, rig.Config{Etcd: servers[0], StoreExtra: store + "node = \"n1\"\n", Process: process})}
	for i := 2; i <= n; i++ {
		r := rig.Prepare(t, rig.Config{Etcd: servers[0], StoreExtra: fmt.Sprintf("%snode = \"n%d\"\n", store, i), Process: process, Token: all[0].Token})
		r.Start(t)
		all = append(all, r)
	}
	return all
}

// TestSeveral: what one daemon does counts at once on the others, and one that is killed is
// missed by nobody, but for the time of its lease.
func TestSeveral(t *testing.T) {
	t.Parallel()
	all := nodes(t, etcd.Start(t), 3, true)
	one, two, three := all[0].Client(""), all[1].Client(""), all[2].Client("")
	key := rig.NewKey(t, one, &kms.CreateKeyInput{})
	out, err := two.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte("text")})
	if err != nil {
		t.Fatal(err)
	}
	if back, err := three.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob}); err != nil || string(back.Plaintext) != "text" {
		t.Fatalf("%v", err)
	}
	for round := range 5 {
		by, other := all[round%3].Client(""), all[(round+1)%3].Client("")
		if _, err := by.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key}); err != nil {
			t.Fatal(err)
		}
		if got := encrypt(t.Context(), other, key); got != "DisabledException" {
			t.Errorf("disabled on another: %q", got)
		}
		if _, err := other.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &key}); err != nil {
			t.Fatal(err)
		}
		if got := encrypt(t.Context(), by, key); got != "" {
			t.Errorf("enabled on another: %q", got)
		}
		alias := fmt.Sprintf("alias/r%d", round)
		if _, err := by.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &key}); err != nil {
			t.Fatal(err)
		}
		if got := encrypt(t.Context(), other, alias); got != "" {
			t.Errorf("an alias of another: %q", got)
		}
	}
	if _, err := two.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &key}); err != nil {
		t.Fatal(err)
	}
	if list, err := three.ListKeyRotations(t.Context(), &kms.ListKeyRotationsInput{KeyId: &key}); err != nil || len(list.Rotations) != 1 {
		t.Errorf("rotations: %v, %v", list, err)
	}

	all[0].Kill() // the leader
	if _, err := two.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key}); err != nil {
		t.Errorf("a change after a kill: %v", err)
	}
	if got := encrypt(t.Context(), three, key); got != "DisabledException" {
		t.Errorf("after a kill: %q", got)
	}
	all[0].Start(t)
	if got := encrypt(t.Context(), all[0].Client(""), key); got != "DisabledException" {
		t.Errorf("on one that has started again: %q", got)
	}
	for i, r := range all {
		if s := r.Status(t); s.State != "ok" || s.Keys != 1 {
			t.Errorf("node %d: %+v", i, s)
		}
	}
	for i, r := range all {
		if err := r.Stop(); err != nil {
			t.Errorf("node %d: %v", i, err)
		}
	}
	for i, r := range all { // each trail is what the database says of it
		r.Start(t)
		if s := r.Status(t); s.State != "ok" {
			t.Errorf("node %d started again: %+v", i, s)
		}
	}
}

// TestSameName: the second of two daemons of one name does not start, and the first goes on.
func TestSameName(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	first := nodes(t, server, 1, false)[0]
	key := rig.NewKey(t, first.Client(""), &kms.CreateKeyInput{})
	second := rig.Prepare(t, rig.Config{Etcd: server, StoreExtra: staleness + "node = \"n1\"\n", Token: first.Token, Process: true})
	if err := second.TryStart(t); err == nil || !strings.Contains(err.Error(), "another daemon is the node") {
		t.Errorf("two daemons of one name: %v", err)
	}
	if got := encrypt(t.Context(), first.Client(""), key); got != "" {
		t.Errorf("the first: %s", got)
	}
}

// TestRevocation: no call that starts after the answer of a change is answered as if it had not
// happened, on no daemon, also while one of them is stopped and goes on.
func TestRevocation(t *testing.T) {
	t.Parallel()
	all := nodes(t, etcd.Start(t), 3, true)
	key := rig.NewKey(t, all[0].Client(""), &kms.CreateKeyInput{})
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	held := revoke(ctx, t, all, key, func() {
		for i := 0; ctx.Err() == nil; i++ {
			p := all[i%len(all)].Process.Process
			pause := []time.Duration{500 * time.Millisecond, 3 * time.Second}[i%2]
			_ = p.Signal(syscall.SIGSTOP)
			wait(ctx, pause)
			_ = p.Signal(syscall.SIGCONT)
			wait(ctx, time.Second)
		}
	})
	if held < 50 {
		t.Errorf("only %d answers were held against a change", held)
	}
	for i, r := range all {
		eventually(t, "healthy", func() bool { return r.Status(t).State == "ok" })
		if got := encrypt(t.Context(), r.Client(""), key); got != "" && got != "DisabledException" {
			t.Errorf("node %d: %q", i, got)
		}
	}
}

// answered is what was last answered of the key's state, and when.
type answered struct {
	mu      sync.Mutex // guards what follows
	enabled bool
	known   bool // no change is under way
	changes int
}

// revoke disables and enables the key on the daemons in turn, under calls on all of them and faults, until ctx
// ends and faults has returned. An answer that contradicts a change which had been answered is an
// error. It returns how many answers were held against one.
func revoke(ctx context.Context, t *testing.T, all []*rig.Rig, key string, faults func()) (held int) {
	t.Helper()
	var state answered
	state.enabled, state.known = true, true
	var running sync.WaitGroup
	var mu sync.Mutex
	calls := 0
	for _, r := range all {
		c := r.Client("")
		for range 2 {
			running.Go(func() {
				for ctx.Err() == nil {
					state.mu.Lock()
					known, enabled, changes := state.known, state.enabled, state.changes
					state.mu.Unlock()
					got := encryptOnce(ctx, c, key)
					state.mu.Lock()
					same := known && state.known && state.changes == changes // no change began since
					state.mu.Unlock()
					mu.Lock()
					calls++
					if same && got != "error" {
						held++
					}
					if same && (got == "" && !enabled || got == "DisabledException" && enabled) {
						t.Errorf("answered %q, the key is enabled: %t", got, enabled)
					}
					mu.Unlock()
				}
			})
		}
	}
	running.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			c := all[i%len(all)].Client("")
			state.mu.Lock()
			want := !state.enabled
			state.known, state.changes = false, state.changes+1
			state.mu.Unlock()
			var err error
			if want {
				_, err = c.EnableKey(context.WithoutCancel(ctx), &kms.EnableKeyInput{KeyId: &key})
			} else {
				_, err = c.DisableKey(context.WithoutCancel(ctx), &kms.DisableKeyInput{KeyId: &key})
			}
			state.mu.Lock()
			if err == nil {
				state.enabled, state.known = want, true
			} else { // it may have happened: ask for it until it is answered
				state.enabled = !want
			}
			state.mu.Unlock()
			time.Sleep(20 * time.Millisecond) // calls in between
		}
	})
	running.Go(faults)
	running.Wait()
	state.mu.Lock()
	defer state.mu.Unlock()
	t.Logf("%d calls, %d of them held against a change, %d changes", calls, held, state.changes)
	if calls < 50 || state.changes < 5 {
		t.Errorf("%d calls, %d changes: too few", calls, state.changes)
	}
	return held
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// encryptOnce is encrypt without a second attempt.
func encryptOnce(ctx context.Context, c *kms.Client, key string) string {
	_, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &key, Plaintext: []byte("text")}, func(o *kms.Options) { o.Retryer = aws.NopRetryer{} })
	var disabled *types.DisabledException
	if errors.As(err, &disabled) {
		return "DisabledException"
	}
	if err != nil {
		return "error"
	}
	return ""
}

// TestTamperedSeveral: a row that somebody writes with etcdctl stops every daemon at once.
func TestTamperedSeveral(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	all := nodes(t, server, 2, false)
	key := rig.NewKey(t, all[0].Client(""), &kms.CreateKeyInput{})
	for _, r := range all { // each has a use to write down when it ends, which it may not
		if got := encrypt(t.Context(), r.Client(""), key); got != "" {
			t.Fatal(got)
		}
	}
	client := server.Client(t)
	defer client.Close()
	found, err := client.Get(t.Context(), "/cmkd/row/keys/", clientv3.WithPrefix())
	if err != nil || len(found.Kvs) != 1 {
		t.Fatal(err, found)
	}
	row := found.Kvs[0]
	if _, err := client.Put(t.Context(), string(row.Key), strings.Replace(string(row.Value), `"State":"Enabled"`, `"State":"Disabled"`, 1)); err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		eventually(t, "it is found", func() bool { return encrypt(t.Context(), r.Client(""), key) == "KMSInvalidStateException" })
		if s := r.Status(t); s.State != "degraded" {
			t.Errorf("status %+v", s)
		}
	}
	if _, err := client.Put(t.Context(), string(row.Key), string(row.Value)); err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if err := r.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range all {
		r.Start(t)
		if got := encrypt(t.Context(), r.Client(""), key); got != "" {
			t.Errorf("as it was: %q", got)
		}
	}
}

// TestWatched: status and metrics tell of the daemons and the servers.
func TestWatched(t *testing.T) {
	t.Parallel()
	all := nodes(t, etcd.Start(t), 2, false)
	out, ok := rig.Cmkctl(t, all[1], "status")
	for _, want := range []string{`n1 +serves +leader +\d+ ms`, `n2 \(this one\) +serves +follower +\d+ ms`, `http://127\S+ +leader`} {
		if !ok || !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("status lacks %q: %s", want, out)
		}
	}
	if _, text := all[0].Ask(t, "GET", "/metrics", ""); !strings.Contains(text, `cmkd_node_leads{node="n1"} 1`) || !strings.Contains(text, `cmkd_node_serves{node="n2"} 1`) ||
		!strings.Contains(text, "cmkd_etcd_up{") {
		t.Errorf("metrics: %s", text)
	}
	if err := all[0].Stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another leader", func() bool {
		out, _ := rig.Cmkctl(t, all[1], "status")
		return regexp.MustCompile(`n2 \(this one\) +serves +leader`).MatchString(out) && !strings.Contains(out, "n1")
	})
}

// TestEpochs: a daemon that starts while another begins one epoch of the database after the other is not
// misled by keys that come and go.
func TestEpochs(t *testing.T) {
	t.Parallel()
	all := nodes(t, etcd.Start(t), 2, false)
	key := rig.NewKey(t, all[0].Client(""), &kms.CreateKeyInput{})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		c := all[0].Client("")
		for n := 0; ctx.Err() == nil; n++ {
			_, err := c.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: &key, Description: aws.String(strconv.Itoa(n))})
			if rig.Code(err) == "DependencyTimeoutException" { // etcd has not answered, on a machine that is busy
				continue
			}
			if err = errors.Join(err, all[0].Daemon.RunJobs(ctx)); err != nil && !errors.Is(err, store.ErrStale) && !errors.Is(err, store.ErrUnwritable) && ctx.Err() == nil {
				t.Errorf("the leader: %v", err)
				return
			}
		}
	})
	for range 6 {
		if err := all[1].Stop(); err != nil {
			t.Fatal(err)
		}
		all[1].Start(t)
		if got := encrypt(t.Context(), all[1].Client(""), key); got != "" {
			t.Fatalf("after a start: %q", got)
		}
	}
}
