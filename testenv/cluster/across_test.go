package cluster

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// TestAcrossFaults: no daemon allows a call that starts after the answer of a revocation, while daemons and
// the leader of etcd are stopped, and while the connections between a daemon and etcd are cut or silent.
// CMKD_CLUSTER_CALLS is how many answers are held against a change, with faults of up to a minute.
func TestAcrossFaults(t *testing.T) {
	t.Parallel()
	pauses, want := []time.Duration{3 * time.Second}, 0
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
		if i > 0 {
			cfg.Token = all[0].Token
		}
		if i == 0 {
			all = append(all, rig.New(t, cfg))
			continue
		}
		r := rig.Prepare(t, cfg)
		r.Start(t)
		all = append(all, r)
	}
	key := rig.NewKey(t, all[0].Client(""), &kms.CreateKeyInput{})
	faults := []func(i int) (end func()){
		func(i int) func() { // a daemon is stopped
			p := all[i%len(all)].Process.Process
			_ = p.Signal(syscall.SIGSTOP)
			return func() { _ = p.Signal(syscall.SIGCONT) }
		},
		func(int) func() { // the leader of etcd is
			s := leader(t, servers)
			s.Signal(t, syscall.SIGSTOP)
			return func() { s.Signal(t, syscall.SIGCONT) }
		},
		func(i int) func() { return each(proxies[i%len(all)], (*etcd.Proxy).Cut) },
		func(i int) func() { return each(proxies[i%len(all)], (*etcd.Proxy).Silence) },
		func(i int) func() { return each(proxies[i%len(all)][i%len(servers):][:1], (*etcd.Proxy).Silence) }, // one server for one daemon
	}
	held := 0
	for round := 0; round == 0 || held < want; round++ {
		ctx, cancel := context.WithCancel(t.Context())
		held += revoke(ctx, t, all, key, func() {
			defer cancel()
			for i, fault := range faults {
				for j, pause := range pauses {
					end := fault(round + i + j)
					wait(t.Context(), pause)
					end()
					wait(t.Context(), time.Second)
				}
			}
		})
		cancel()
	}
	for i, r := range all {
		eventually(t, "healthy", func() bool { return r.Status(t).State == "ok" })
		if got := encrypt(t.Context(), r.Client(""), key); got != "" && got != "DisabledException" {
			t.Errorf("node %d: %q", i, got)
		}
	}
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
