package daemon_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"golang.org/x/sys/unix"

	"cmkd/daemon"
	"cmkd/testenv/rig"
)

// TestAuditCannotBeWritten takes the daemon the room for its files away (a
// limit of the file size has the effect of a full disk on writes that append)
// and gives it back. No answer leaves without a record, nothing is done
// meanwhile, and the service returns by itself.
func TestAuditCannotBeWritten(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{Process: true})
	c := r.Client("")
	id := newKey(t, c, &kms.CreateKeyInput{})

	answered := make(chan string, 1<<16)
	var callers sync.WaitGroup
	refused := make(chan error, 16)
	for range cap(refused) {
		callers.Go(func() {
			for {
				request, err := encrypt(t.Context(), c, id)
				if err != nil {
					refused <- err
					return
				}
				answered <- request
			}
		})
	}
	<-answered // the callers are at it
	var plenty unix.Rlimit
	if err := unix.Prlimit(r.Process.Process.Pid, unix.RLIMIT_FSIZE, nil, &plenty); err != nil {
		t.Fatal(err)
	}
	limit := unix.Rlimit{Cur: uint64(len(r.AuditTrail(t)) + 300), Max: plenty.Max}
	if err := unix.Prlimit(r.Process.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	callers.Wait()
	close(answered)
	for range cap(refused) {
		if err := <-refused; code(err) != "KMSInternalException" || !strings.Contains(err.Error(), "audit trail") {
			t.Errorf("without a trail a call is answered %v", err)
		}
	}
	if _, err := encrypt(t.Context(), c, id); code(err) != "KMSInternalException" {
		t.Errorf("later, a call is answered %v", err)
	}
	if _, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{}); code(err) != "KMSInternalException" {
		t.Errorf("CreateKey is answered %v", err)
	}
	if err := unix.Prlimit(r.Process.Process.Pid, unix.RLIMIT_FSIZE, &plenty, nil); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := encrypt(t.Context(), c, id)
		if err == nil {
			break
		}
		if code(err) != "KMSInternalException" {
			t.Fatalf("with room again: %v", err)
		}
		time.Sleep(10 * time.Millisecond) // polls the service
	}
	if keys, err := c.ListKeys(t.Context(), &kms.ListKeysInput{}); err != nil || len(keys.Keys) != 1 {
		t.Errorf("a key was made without a record of it: %v, %v", keys, err)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	trail := r.AuditTrail(t)
	n := 0
	for request := range answered {
		if n++; !strings.Contains(trail, request) {
			t.Errorf("request %s was answered and is not in the trail", request)
		}
	}
	if report, err := daemon.VerifyTrail(filepath.Join(r.Dir, "s", "audit"), daemon.TrailOptions{ChainOnly: true}); err != nil || report.Outages != 1 {
		t.Errorf("the trail does not verify or tell of the outage: %+v, %v", report, err)
	}
	t.Logf("%d calls were answered", n)
}

// encrypt makes a call and returns its request ID.
func encrypt(ctx context.Context, c *kms.Client, id string) (string, error) {
	out, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &id, Plaintext: []byte("text")})
	if err != nil {
		return "", err
	}
	request, _ := awsmiddleware.GetRequestIDMetadata(out.ResultMetadata)
	return request, nil
}
