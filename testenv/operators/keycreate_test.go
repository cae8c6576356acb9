package operators

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/rig"
)

// TestKeyCreateLeavesNoKey: if the alias cannot be had, no key is left behind.
func TestKeyCreateLeavesNoKey(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{Tables: "[limits]\nrequest_rates = { CreateAlias = 0.0001 }\n"})
	c := r.Client("")
	keys := func() map[string]string {
		t.Helper()
		out, err := c.ListKeys(t.Context(), &kms.ListKeysInput{})
		if err != nil {
			t.Fatal(err)
		}
		states := map[string]string{}
		for _, k := range out.Keys {
			states[*k.KeyId] = rig.State(t, c, *k.KeyId)
		}
		return states
	}
	out, ok := rig.Cmkctl(t, r, "key", "create", "--alias", "app")
	arn := strings.TrimSpace(out)
	if !ok || !strings.HasPrefix(arn, "arn:aws:kms:") {
		t.Fatalf("key create: %s", out)
	}
	for _, alias := range []string{"app", "alias/app"} {
		out, ok := rig.Cmkctl(t, r, "key", "create", "--alias", alias)
		if ok || !strings.Contains(out, "no key was created: alias/app is already the alias of "+arn) {
			t.Errorf("an alias that is taken: %s", out)
		}
	}
	for _, alias := range []string{"aws/app", "a b", "alias/"} {
		out, ok := rig.Cmkctl(t, r, "key", "create", "--alias", alias)
		if ok || !strings.Contains(out, "no key was created: ") || !strings.Contains(out, "cannot be an alias") {
			t.Errorf("no alias: %s", out)
		}
	}
	if got := keys(); len(got) != 1 {
		t.Errorf("the keys are %v", got)
	}
	// The service says only when it comes to the alias that it is not to be had.
	out, ok = rig.Cmkctl(t, r, "key", "create", "--alias", "second")
	if ok || !strings.Contains(out, "ThrottlingException") || !strings.Contains(out, "will be deleted in 7 days") {
		t.Errorf("an alias that is refused: %s", out)
	}
	got, pending := keys(), 0
	for id, s := range got {
		if s == "PendingDeletion" && strings.Contains(out, id) {
			pending++
		}
	}
	if len(got) != 2 || pending != 1 {
		t.Errorf("the keys are %v", got)
	}
}
