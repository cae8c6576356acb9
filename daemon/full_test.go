package daemon_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"golang.org/x/sys/unix"

	"cmkd/daemon"
	"cmkd/testenv/rig"
)

// TestAuditCannotBeWritten takes the daemon the room for its files away (a
// limit of the file size has the effect of a full disk on writes that append)
// and gives it back with a restart. No answer leaves without a record.
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
	room := uint64(len(r.AuditTrail(t)) + 300)
	limit := unix.Rlimit{Cur: room, Max: room}
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
	r.Kill()

	r.Start(t)
	if _, err := encrypt(t.Context(), r.Client(""), id); err != nil {
		t.Errorf("after the restart: %v", err)
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
	if _, err := daemon.VerifyTrail(filepath.Join(r.Dir, "s", "audit"), nil); err != nil {
		t.Errorf("the trail does not verify: %v", err)
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
