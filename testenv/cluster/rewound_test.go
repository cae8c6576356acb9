package cluster

import (
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// TestRewound: an older state of etcd is put back under running daemons. They notice, before any of them
// would go on beside one that starts with it.
func TestRewound(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	all := nodes(t, server, 2, false)
	key := rig.NewKey(t, all[0].Client(""), &kms.CreateKeyInput{})
	server.Save(t)
	eventually(t, "healthy", func() bool { return all[0].Status(t).State == "ok" && all[1].Status(t).State == "ok" })
	disabled := func() bool {
		_, err := all[0].Client("").DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key}, once)
		return err == nil
	}
	eventually(t, "a change", disabled)
	server.Rewind(t)
	for i, r := range all {
		eventually(t, "it is noticed", func() bool {
			text, _ := rig.Cmkctl(t, r, "status")
			return strings.Contains(text, "stop all daemons before a snapshot is restored")
		})
		if got := encrypt(t.Context(), r.Client(""), key); got != "KMSInvalidStateException" {
			t.Errorf("daemon %d: %q", i+1, got)
		}
	}
}

// TestAcceptedElsewhere: when the operator of one daemon has accepted an older copy, the trail of another does not
// say that changes did not happen which had been answered and counted. It says that they may have been undone.
func TestAcceptedElsewhere(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	all := nodes(t, server, 2, false)
	a, b := all[0], all[1]
	key := rig.NewKey(t, a.Client(""), &kms.CreateKeyInput{})
	if _, err := b.Client("").TagResource(t.Context(), &kms.TagResourceInput{KeyId: &key, Tags: []types.Tag{{TagKey: aws.String("a"), TagValue: aws.String("b")}}}); err != nil {
		t.Fatal(err)
	}
	server.Save(t)
	if _, err := b.Client("").DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key}); err != nil {
		t.Fatal(err)
	}
	if got := encrypt(t.Context(), a.Client(""), key); got != "DisabledException" {
		t.Fatal(got)
	}
	var stopped sync.WaitGroup // at the same moment: one of them ends the epoch
	for _, r := range all {
		stopped.Go(func() {
			if err := r.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	stopped.Wait()
	for i, r := range all {
		if strings.Contains(r.Log(), "not closed properly") {
			t.Errorf("daemon %d:\n%s", i+1, r.Log())
		}
	}
	server.Rewind(t)
	a.Start(t)
	rig.Accept(t, a)
	for range 2 { // the second time it has named the end of its trail
		b.Start(t)
		if s := b.Status(t); s.State != "ok" {
			t.Errorf("state %s\n%s", s.State, b.Log())
		}
		trail := b.AuditTrail(t)
		if strings.Contains(trail, "ChangeNotCommitted") || strings.Count(trail, `"eventName":"StateAcceptedElsewhere"`) != 1 {
			t.Errorf("the trail of the other daemon:\n%s", trail)
		}
		if got := encrypt(t.Context(), b.Client(""), key); got != "" {
			t.Errorf("the key as of the copy: %s", got)
		}
		if err := b.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}
