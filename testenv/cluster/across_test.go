package cluster

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// TestAcrossFaults: no daemon allows a call that starts after the answer of a revocation, while daemons and
// the leader of etcd are stopped, and while the connections between a daemon and etcd are cut or silent.
// Each change is answered by another daemon than the one in trouble, and the calls wait in that one's socket, or
// are made, when the trouble ends. CMKD_CLUSTER_CALLS is how many are made so at least, with faults of up to a minute.
func TestAcrossFaults(t *testing.T) {
	t.Parallel()
	pauses, want := []time.Duration{9 * time.Second}, 50 // behind which a stopped daemon is not waited for
	if text := os.Getenv("CMKD_CLUSTER_CALLS"); text != "" {
		want, _ = strconv.Atoi(text)
		pauses = []time.Duration{3 * time.Second, 6 * time.Second, time.Minute}
	}
	servers := etcd.StartCluster(t, 3)
	var all []*rig.Rig
	proxies := make([][]*etcd.Proxy, 3) // of each daemon, one for each server
	for i := range proxies {
		var endpoints []string
		for _, s := range servers {
			p := etcd.NewProxy(t, s)
			proxies[i] = append(proxies[i], p)
			endpoints = append(endpoints, strconv.Quote(p.Endpoint))
		}
		cfg := rig.Config{Etcd: servers[0], Process: true, StoreExtra: fmt.Sprintf("%snode = \"n%d\"\nendpoints = [%s]\n", staleness, i+1, strings.Join(endpoints, ", "))}
		if i == 0 {
			all = append(all, rig.New(t, cfg))
			continue
		}
		cfg.Token = all[0].Token
		r := rig.Prepare(t, cfg)
		r.Start(t)
		all = append(all, r)
	}
	key := rig.NewKey(t, all[0].Client(""), &kms.CreateKeyInput{})
	faults := map[string]func(i int) (end func()){
		"the daemon is stopped": func(i int) func() {
			p := all[i].Process.Process
			_ = p.Signal(syscall.SIGSTOP)
			return func() { _ = p.Signal(syscall.SIGCONT) }
		},
		"the leader of etcd is stopped": func(int) func() {
			s := leader(t, servers)
			s.Signal(t, syscall.SIGSTOP)
			return func() { s.Signal(t, syscall.SIGCONT) }
		},
		"its connections are cut":    func(i int) func() { return each(proxies[i], (*etcd.Proxy).Cut) },
		"its connections are silent": func(i int) func() { return each(proxies[i], (*etcd.Proxy).Silence) },
		"one server is silent to it": func(i int) func() { return each(proxies[i][i:][:1], (*etcd.Proxy).Silence) },
	}
	made, enabled := 0, true
	for round := 0; round == 0 || made < want; round++ {
		for name, fault := range faults {
			for i, pause := range pauses {
				ill := (round + i) % len(all)
				n := across(t, all[ill], all[(ill+1)%len(all)], key, !enabled, pause, func() func() { return fault(ill) })
				enabled = !enabled
				t.Logf("%s for %s: %d calls", name, pause, n)
				made += n
			}
		}
	}
	for i, r := range all {
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("status of node %d: %+v", i, r.Status(t))
			}
		})
		eventually(t, "healthy", func() bool { return r.Status(t).State == "ok" })
		if got := encrypt(t.Context(), r.Client(""), key); got != map[bool]string{true: "", false: "DisabledException"}[enabled] {
			t.Errorf("node %d: %q", i, got)
		}
	}
}

// across enables or disables the key on another daemon during a fault, and makes calls on the one in trouble once that
// is answered, before the end of the fault and for a moment after it. It returns how many were answered.
func across(t *testing.T, ill, well *rig.Rig, key string, enable bool, pause time.Duration, fault func() (end func())) int {
	t.Helper()
	end := fault()
	over := time.Now().Add(pause)
	changed := func() error {
		if enable {
			_, err := well.Client("").EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &key}, once)
			return err
		}
		_, err := well.Client("").DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key}, once)
		return err
	}
	answer := make(chan error, 1)
	go func() {
		err := changed()
		for err != nil && t.Context().Err() == nil { // one that is in doubt, or has no quorum, is repeated
			err = changed()
		}
		answer <- err
	}()
	ended := false
	select {
	case err := <-answer:
		answer <- err
	case <-time.After(time.Until(over)):
		end()
		ended = true
	}
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	var answered atomic.Int64
	var running sync.WaitGroup
	call := func(c *kms.Client) {
		switch got := encryptOnce(t.Context(), c, key); {
		case got == "" && !enable, got == "DisabledException" && enable:
			t.Errorf("answered %q, after the answer to a change: the key is enabled: %t", got, enable)
		case got != "error":
			answered.Add(1)
		}
	}
	for range 50 {
		running.Go(func() { call(ill.Client("")) }) // on a connection of its own, which waits in the socket
	}
	if !ended {
		wait(t.Context(), max(time.Until(over), 300*time.Millisecond))
		end()
	}
	moment := time.Now().Add(time.Second)
	for range 4 {
		running.Go(func() {
			for c := ill.Client(""); time.Now().Before(moment); {
				call(c)
			}
		})
	}
	running.Wait()
	return int(answered.Load())
}

// each does something to all proxies, and returns what ends it.
func each(proxies []*etcd.Proxy, do func(*etcd.Proxy)) (end func()) {
	for _, p := range proxies {
		do(p)
	}
	return func() {
		for _, p := range proxies {
			p.Resume()
		}
	}
}

// leader is the server that leads.
func leader(t testing.TB, servers []*etcd.Server) (found *etcd.Server) {
	t.Helper()
	eventually(t, "a leader of etcd", func() bool {
		for _, s := range servers {
			c := s.Client(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			status, err := c.Status(ctx, s.Endpoint)
			cancel()
			_ = c.Close()
			if err == nil && status.Leader == status.Header.MemberId {
				found = s
				return true
			}
		}
		return false
	})
	return found
}
