package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/daemon/store"
	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// TestClocks: a daemon whose clock is an hour off is neither fenced nor misled, and keys are rotated by the
// leader's clock, whatever those of the others say.
func TestClocks(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	var all []*rig.Rig
	var clocks []*rig.Clock
	for i, off := range []time.Duration{0, time.Hour, -time.Hour} {
		clock := rig.NewClock()
		clock.Jump(off)
		cfg := rig.Config{Etcd: server, StoreExtra: fmt.Sprintf("%snode = \"n%d\"\n", staleness, i+1), Now: clock.Now}
		if i > 0 {
			cfg.Token = all[0].Token
		}
		r := rig.Prepare(t, cfg)
		if i == 0 {
			r.Initialise(t)
		}
		r.Start(t)
		all, clocks = append(all, r), append(clocks, clock)
	}
	key := rig.NewKey(t, all[0].Client(""), &kms.CreateKeyInput{})
	for i, end := 0, time.Now().Add(5*time.Second); time.Now().Before(end); i++ { // longer than any of them may be silent
		one, other := all[i%3].Client(""), all[(i+1)%3].Client("")
		if _, err := one.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key}, once); err != nil {
			t.Fatal(err)
		}
		if got := encrypt(t.Context(), other, key); got != "DisabledException" {
			t.Fatalf("disabled by another daemon: %q", got)
		}
		if _, err := other.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &key}, once); err != nil {
			t.Fatal(err)
		}
		if got := encrypt(t.Context(), one, key); got != "" {
			t.Fatalf("enabled by another daemon: %q", got)
		}
		for range 20 { // and calls that only look
			if _, err := other.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key}, once); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, r := range all {
		if s := r.Status(t); s.State != "ok" {
			t.Errorf("daemon %d: %+v", i+1, s)
		}
	}

	if _, err := all[0].Client("").EnableKeyRotation(t.Context(), &kms.EnableKeyRotationInput{KeyId: &key}); err != nil {
		t.Fatal(err)
	}
	due := func(at time.Time) { // no call makes a key due so soon
		t.Helper()
		if err := all[0].Daemon.Store().Update(t.Context(), func(tx *store.Tx) error {
			row, _ := tx.Key(rig.Region, key)
			soon := *row
			soon.NextRotation = at
			return tx.PutKey(&soon)
		}); err != nil {
			t.Fatal(err)
		}
	}
	rotations := func(want int) {
		t.Helper()
		for _, r := range all {
			if r.Daemon == nil {
				continue
			}
			if err := r.Daemon.RunJobs(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		out, err := all[2].Client("").ListKeyRotations(t.Context(), &kms.ListKeyRotationsInput{KeyId: &key})
		if err != nil || len(out.Rotations) != want {
			t.Fatalf("%v, %v: want %d rotations", out, err, want)
		}
	}
	due(clocks[0].Now().Add(30 * time.Minute))
	rotations(0) // by the clock of the second daemon it is due, which does not lead
	clocks[0].Jump(time.Hour)
	rotations(1)
	due(clocks[0].Now().Add(-time.Second))
	if err := all[0].Stop(); err != nil {
		t.Fatal(err)
	}
	all[0].Daemon = nil
	eventually(t, "another leader", func() bool { return all[1].Daemon.Store().Leads() })
	rotations(2)
}
