package cluster

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

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
