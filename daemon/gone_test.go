package daemon_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/rig"
)

// TestCallersGone: clients that are killed in the middle of CreateKey leave a
// record each, whole keys or none, and no errors in the log, which they could
// fill so.
func TestCallersGone(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	const callers = 20
	for range callers {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", r.Socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: TrentService.CreateKey\r\n"+
			"Content-Type: application/x-amz-json-1.1\r\nContent-Length: 2\r\n\r\n{}")
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for strings.Count(r.AuditTrail(t), `"eventName":"CreateKey"`) < callers {
		time.Sleep(10 * time.Millisecond) // polls the trail
	}
	runJobs(t, r) // what could not be undone in time
	list, err := r.Client("").ListKeys(t.Context(), &kms.ListKeysInput{})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, k := range list.Keys {
		want = append(want, labels(*k.KeyId, 1)...)
	}
	slices.Sort(want)
	got := slices.DeleteFunc(objects(t, r, "cmkd:"), func(label string) bool { return strings.HasPrefix(label, "cmkd:system-") })
	if !slices.Equal(got, want) {
		t.Errorf("the token has %v, the keys are %v", got, want)
	}
	if log := r.Log(); strings.Contains(log, `"level":"ERROR"`) {
		t.Errorf("the log has errors:\n%s", log)
	}
	t.Logf("%d of %d keys were made", len(list.Keys), callers)
}
