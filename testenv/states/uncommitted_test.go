package states_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// TestUncommittedEvents: what the service recorded of its own accord, and did not commit
// before the daemon was killed, is taken back at the next start, each record once. A key
// whose deletion is cancelled then lives, and so says the trail.
func TestUncommittedEvents(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	r := rig.New(t, rig.Config{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	c := r.Client("")
	doomed, rotated := rig.NewKey(t, c, &kms.CreateKeyInput{}), rig.NewKey(t, c, &kms.CreateKeyInput{})
	if _, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &doomed, PendingWindowInDays: aws.Int32(7)}); err != nil {
		t.Fatal(err)
	}
	for range 7 { // a jump by more than a day would hold the deletion
		ahead.Add(int64(23 * time.Hour))
		if err := r.Daemon.RunJobs(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	put := keep(t, r)
	if _, err := c.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &rotated}); err != nil {
		t.Fatal(err)
	}
	ahead.Add(int64(23 * time.Hour))
	if err := r.Daemon.RunJobs(t.Context()); err != nil {
		t.Fatal(err)
	}
	put()
	ahead.Add(-int64(23 * time.Hour)) // or the jobs of the start delete the key
	r.Start(t)
	c = r.Client("")
	if _, err := c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: &doomed}); err != nil {
		t.Fatal(err)
	}
	said, back := events(t, r)
	for _, name := range []string{"DeleteKey", "RotateKey"} {
		if len(said[name]) != 1 {
			t.Fatalf("%d records of %s: this test is to have one", len(said[name]), name)
		}
		if n := back[said[name][0]]; n != 1 {
			t.Errorf("the record of %s was taken back %d times, want once", name, n)
		}
	}
	ahead.Add(int64(23 * time.Hour))
	if err := r.Daemon.RunJobs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &doomed}); err != nil || out.KeyMetadata.KeyState != types.KeyStateDisabled {
		t.Errorf("the key whose deletion was cancelled: %+v, %v", out, err)
	}
}

// keep copies the daemon's state and the token. The function it returns ends the daemon
// and leaves what there is if it is killed between the record of the deletion and its
// commit: all is as it was, but for the trail, which ends with that record.
func keep(t *testing.T, r *rig.Rig) (put func()) {
	t.Helper()
	kept := t.TempDir()
	places := []string{filepath.Join(r.Dir, "s"), filepath.Dir(r.Token.ConfFile)}
	for i, place := range places {
		copyTree(t, filepath.Join(kept, strconv.Itoa(i)), place)
	}
	return func() {
		t.Helper()
		segments, err := filepath.Glob(filepath.Join(r.Dir, "s", "audit", "*.jsonl"))
		if err != nil || len(segments) != 1 {
			t.Fatalf("the trail has the segments %v, %v", segments, err)
		}
		const deletion = `"eventName":"DeleteKey"`
		lines, rest, deleted := strings.Cut(r.AuditTrail(t), deletion)
		rest, _, _ = strings.Cut(rest, "\n")
		if !deleted {
			t.Fatal("the key is not deleted")
		}
		if err := r.Stop(); err != nil {
			t.Fatal(err)
		}
		for i, place := range places {
			if err := os.RemoveAll(place); err != nil {
				t.Fatal(err)
			}
			copyTree(t, place, filepath.Join(kept, strconv.Itoa(i)))
		}
		if err := os.WriteFile(segments[0], []byte(lines+deletion+rest+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// copyTree copies the folders and files, without sockets.
func copyTree(t *testing.T, to, from string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		switch {
		case e.IsDir():
			return os.MkdirAll(target, info.Mode().Perm())
		case !e.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, text, info.Mode().Perm())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// events are the eventIDs of what the service did, by eventName, and how often each
// record was taken back.
func events(t *testing.T, r *rig.Rig) (said map[string][]string, back map[string]int) {
	t.Helper()
	said, back = map[string][]string{}, map[string]int{}
	for line := range strings.Lines(r.AuditTrail(t)) {
		var e struct {
			EventID, EventName, EventType, ErrorCode string
			AdditionalEventData                      struct{ Details struct{ NotCommitted string } }
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if id := e.AdditionalEventData.Details.NotCommitted; id != "" {
			back[id]++
		}
		if e.EventType == "AwsServiceEvent" && e.ErrorCode == "" {
			said[e.EventName] = append(said[e.EventName], e.EventID)
		}
	}
	return said, back
}
