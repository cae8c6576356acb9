package cluster

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// TestDrain: a daemon that was asked to end, and waits for its last calls, holds up no change of another.
func TestDrain(t *testing.T) {
	t.Parallel()
	all := nodes(t, etcd.Start(t), 2, false)
	key := rig.NewKey(t, all[0].Client(""), &kms.CreateKeyInput{})
	c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", all[1].Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// A call that has begun, and whose body does not come.
	if _, err := fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: TrentService.Encrypt\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: 100\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	if got := encrypt(t.Context(), all[1].Client(""), key); got != "" { // so that the call has been taken up
		t.Fatal(got)
	}
	ended := make(chan error, 1)
	go func() { ended <- all[1].Stop() }()
	eventually(t, "draining", func() bool { return encryptOnce(t.Context(), all[1].Client(""), key) != "" })
	if _, err := all[0].Client("").DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key}, once); err != nil {
		t.Errorf("a change while another daemon drains: %v", err)
	}
	select {
	case <-ended:
		t.Error("the other daemon did not wait for its last call")
	default:
	}
	_ = c.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestSilentAtStart: an etcd that goes silent while a daemon reads its rows is waited for.
func TestSilentAtStart(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	proxy := etcd.NewProxy(t, server)
	r := rig.New(t, rig.Config{Etcd: server, StoreExtra: fmt.Sprintf("%sendpoints = [%q]\n", staleness, proxy.Endpoint), Process: true})
	key := rig.NewKey(t, r.Client(""), &kms.CreateKeyInput{})
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	proxy.SilenceAt("/cmkd/row/")
	started := make(chan struct{})
	go func() {
		defer close(started)
		r.Start(t)
	}()
	eventually(t, "reading the rows", proxy.Silent)
	eventually(t, "the log", func() bool { return strings.Contains(r.Log(), "waiting for etcd, nothing is served") })
	proxy.Resume()
	<-started
	if got := encrypt(t.Context(), r.Client(""), key); got != "" {
		t.Error(got)
	}
}

// TestComesBack: a daemon that has left the others on its own, as one that cannot do the leader's work does, serves
// again, also if nothing comes from the others.
func TestComesBack(t *testing.T) {
	t.Parallel()
	all := nodes(t, etcd.Start(t), 2, false)
	key := rig.NewKey(t, all[0].Client(""), &kms.CreateKeyInput{})
	leads := func(r *rig.Rig) bool { return r.Daemon.Store().Leads() }
	if !leads(all[0]) {
		t.Fatal("the first daemon does not lead")
	}
	all[0].Daemon.Store().Leave(t.Context())
	eventually(t, "serving", func() bool { return encryptOnce(t.Context(), all[0].Client(""), key) == "" })
	if leads(all[0]) || !leads(all[1]) {
		t.Error("the daemon that has left leads")
	}
}
