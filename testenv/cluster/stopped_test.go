package cluster

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// TestStoppedThenKilled: a daemon that was stopped, serves again without a change of its own and is then killed
// has more in its trail than the last record that it named when it stopped.
func TestStoppedThenKilled(t *testing.T) {
	t.Parallel()
	all := nodes(t, etcd.Start(t), 2, true)
	key := rig.NewKey(t, all[0].Client(""), &kms.CreateKeyInput{})
	r := all[1]
	for range 2 {
		if err := r.Stop(); err != nil {
			t.Fatal(err)
		}
		r.Start(t)
		if got := encrypt(t.Context(), r.Client(""), key); got != "" {
			t.Fatal(got)
		}
		r.Kill()
		r.Start(t)
		if s := r.Status(t); s.State != "ok" {
			t.Errorf("state %s after a kill:\n%s", s.State, r.Log())
		}
	}
}
