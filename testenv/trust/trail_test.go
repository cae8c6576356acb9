package trust

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/daemon"
	"cmkd/daemon/audit"
	"cmkd/testenv/rig"
)

// TestTrailTampering changes the trail of a stopped daemon. Each time the
// daemon starts, says what is wrong, and neither serves cryptography nor signs
// anything, until the trail is put back as it was.
func TestTrailTampering(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{SegmentBytes: smallSegments})
	a, _ := life(t, r)
	oldTrail, oldDatabase := t.TempDir(), t.TempDir()
	stop := func() {
		t.Helper()
		if err := r.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	replaceTrail(t, trailDir(r), oldTrail)
	copyDatabase(t, filepath.Dir(rig.Database(r)), oldDatabase)
	r.Start(t)
	use(t, r.Client(""), a)
	stop()
	saved, savedDatabase := t.TempDir(), t.TempDir()
	replaceTrail(t, trailDir(r), saved)
	copyDatabase(t, filepath.Dir(rig.Database(r)), savedDatabase)
	report, err := offline(t, r, daemon.TrailOptions{})
	if err != nil || report.Unsigned != 0 || report.Segments < 4 || report.KeyChanges != 0 {
		t.Fatalf("before anything is done: %+v, %v", report, err)
	}
	if h := head(t, r); h.AuditSequence != report.Last || string(h.AuditHash) != string(report.Hash[:]) || !h.AuditLast {
		t.Fatalf("the head names %+v, the trail ends with record %d", h, report.Last)
	}
	keys, _ := filepath.Glob(filepath.Join(r.Dir, "s", "audit-key-*.pem"))
	if _, err := daemon.VerifyTrail(t.TempDir(), daemon.TrailOptions{KeyFiles: keys}); err == nil || !strings.Contains(err.Error(), "no record in ") {
		t.Errorf("a folder without a trail: %v", err)
	}
	if broken, err := offline(t, r, daemon.TrailOptions{Head: fmt.Sprintf("2:%064d", 0)}); err == nil || broken.Records != 1 || broken.LastTime.IsZero() {
		t.Errorf("another second record: %+v, %v", broken, err)
	}
	last := func() string { s := segments(t, trailDir(r)); return s[len(s)-1] }
	for _, c := range []struct {
		name string
		do   func() error
		why  string
		head bool // found offline only if the last record is known
	}{
		{"whole trail forged", func() error { rehash(t, trailDir(r), forged); return nil }, "not the record that the database knows of", false},
		{"whole trail forged, checkpoints as they were", func() error {
			rehash(t, trailDir(r), func(body string) string { return strings.ReplaceAll(body, ":root\"", ":user/eve\"") })
			return nil
		}, "record", false}, // a checkpoint, or the record that the database knows of: what comes first
		{"record added", func() error { addRecord(t, last(), &report); return nil }, "added to the trail", true},
		{"last segment cut to nothing", func() error { return os.Truncate(last(), 0) }, "the segment is empty", false},
		{"last segment without its first lines", func() error {
			text := readFile(t, last())
			return os.WriteFile(last(), []byte(text[strings.Index(text, "\n")+1:]), 0o600)
		}, "does not follow the one before", false},
		{"last record cut off", func() error {
			text := strings.TrimSuffix(readFile(t, last()), "\n")
			if !strings.Contains(text, "\n") {
				return os.Remove(last())
			}
			return os.WriteFile(last(), []byte(text[:strings.LastIndex(text, "\n")+1]), 0o600)
		}, "the log ends too early", true},
		{"oldest segment removed", func() error { return os.Remove(segments(t, trailDir(r))[0]) }, "the beginning of the trail is missing", false},
		{"segment removed", func() error { return os.Remove(segments(t, trailDir(r))[1]) }, "segment 2 is missing", false},
		{"FIFO for a segment", func() error {
			second := segments(t, trailDir(r))[1]
			return errors.Join(os.Remove(second), syscall.Mkfifo(second, 0o600))
		}, "not a regular file", false},
		{"trail removed", func() error { return os.RemoveAll(trailDir(r)) }, "the log ends too early", false},
		{"older trail", func() error { replaceTrail(t, oldTrail, trailDir(r)); return nil }, "the log ends too early", true},
	} {
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(trailDir(r)); err == nil {
			if _, err := offline(t, r, daemon.TrailOptions{}); (err == nil) != c.head {
				t.Errorf("%s: offline: %v", c.name, err)
			}
			if _, err := offline(t, r, daemon.TrailOptions{Head: fmt.Sprintf("%d:%x", report.Last, report.Hash)}); err == nil && c.name != "record added" {
				t.Errorf("%s: not found offline with the last record", c.name)
			}
		}
		signed := checkpoints(t, r)
		r.Start(t)
		if why := trailMismatch(t, r); !strings.Contains(why, c.why) {
			t.Errorf("%s: %q, want %q", c.name, why, c.why)
		}
		if out, ok := rig.Cmkctl(t, r, "audit", "verify"); ok || !strings.Contains(out, "the audit trail does not verify: ") {
			t.Errorf("%s: audit verify: %s", c.name, out)
		}
		refusesUnverified(t, r, a)
		stop()
		if n := checkpoints(t, r); n != signed {
			t.Errorf("%s: %d checkpoints were signed", c.name, n-signed)
		}
		replaceTrail(t, saved, trailDir(r))
	}
	r.Start(t)
	if state := r.Status(t).State; state != "ok" {
		t.Errorf("state %s after the trail was put back: %s\n%s", state, trailMismatch(t, r), r.Log())
	}
	stop()
	// Both together are older than the token.
	replaceTrail(t, oldTrail, trailDir(r))
	copyDatabase(t, oldDatabase, filepath.Dir(rig.Database(r)))
	r.Start(t)
	if _, m := rig.AcceptState(t, r, ""); m.Mismatch == nil || !strings.HasPrefix(m.Mismatch.Reason, "it is an older copy") {
		t.Errorf("rolled back with the database: %+v", m.Mismatch)
	}
}

// TestTrailAccepted changes the trail under a running daemon, which finds it
// when it reloads. Accepted, the trail starts over and verifies; what was there
// is kept.
func TestTrailAccepted(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{SegmentBytes: smallSegments})
	a, _ := life(t, r)
	files := segments(t, trailDir(r))
	last := files[len(files)-1]
	if err := os.WriteFile(last, []byte(strings.Replace(readFile(t, last), `:root"`, `:eve!"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Daemon.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if why := trailMismatch(t, r); !strings.Contains(why, "does not match its hash") {
		t.Fatalf("not found: %q", why)
	}
	refusesUnverified(t, r, a)
	if out, ok := rig.Cmkctl(t, r, "status"); ok || !strings.Contains(out, "audit trail") {
		t.Errorf("status: %s", out)
	}
	if out, ok := rig.Cmkctl(t, r, "metrics"); !ok || !strings.Contains(out, "cmkd_audit_verified 0") {
		t.Errorf("metrics: %s", out)
	}
	rig.Accept(t, r)
	use(t, r.Client(""), a)
	if out, ok := rig.Cmkctl(t, r, "audit", "verify"); !ok {
		t.Errorf("after it was accepted: %s", out)
	}
	aside, err := filepath.Glob(filepath.Join(trailDir(r), "aside-*", "audit-*.jsonl"))
	if err != nil || !slices.ContainsFunc(aside, func(path string) bool { return filepath.Base(path) == filepath.Base(last) }) {
		t.Errorf("what was there is not kept: %v, %v", aside, err)
	}
	text := r.AuditTrail(t)
	for _, want := range []string{"AuditLogBegun", "AcceptState"} {
		if !strings.Contains(text, `"eventName":"`+want+`"`) {
			t.Errorf("no %s in the new trail", want)
		}
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	report, err := offline(t, r, daemon.TrailOptions{})
	if err != nil {
		t.Errorf("offline: %v", err)
	}
	r.Start(t)
	if state := r.Status(t).State; state != "ok" {
		t.Errorf("state %s after a restart: %s", state, trailMismatch(t, r))
	}
	// What was only added does not keep the trail from going on.
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	if report, err = offline(t, r, daemon.TrailOptions{}); err != nil {
		t.Fatal(err)
	}
	files = segments(t, trailDir(r))
	addRecord(t, files[len(files)-1], &report)
	r.Start(t)
	if why := trailMismatch(t, r); !strings.Contains(why, "added to the trail") {
		t.Errorf("a record was added: %q", why)
	}
	rig.Accept(t, r)
	if left := segments(t, trailDir(r)); left[0] != files[0] || r.Status(t).State != "ok" {
		t.Errorf("the trail was %v and is %v, state %s", files, left, r.Status(t).State)
	}
	// Removed while the daemon runs: it goes on recording, and does not serve.
	if err := os.RemoveAll(trailDir(r)); err != nil {
		t.Fatal(err)
	}
	_, _ = r.Client("").ListKeys(t.Context(), &kms.ListKeysInput{})
	for trailMismatch(t, r) == "" {
		time.Sleep(10 * time.Millisecond) // the trail is mended once a second
	}
	refusesUnverified(t, r, a)
	rig.Accept(t, r)
	use(t, r.Client(""), a)
}

// TestTrailPruned removes the oldest segments: verification takes the new
// beginning, and no later one.
func TestTrailPruned(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{SegmentBytes: smallSegments})
	a, _ := life(t, r)
	if out, ok := rig.Cmkctl(t, r, "audit", "prune", "--before", "2000-01-01", "--yes"); !ok || !strings.Contains(out, "nothing to remove") {
		t.Errorf("nothing is so old: %s", out)
	}
	before := segments(t, trailDir(r))
	out, ok := rig.Cmkctl(t, r, "audit", "prune", "--keep", "2", "--archive")
	if !ok || !strings.Contains(out, "moved to archive") || !strings.Contains(out, "audit-000001.jsonl") {
		t.Fatalf("%s\n%s", out, r.Log())
	}
	if n := len(segments(t, filepath.Join(trailDir(r), "archive"))); n != len(before)-2 {
		t.Errorf("%d segments are in the archive, want %d", n, len(before)-2)
	}
	if left := segments(t, trailDir(r)); left[0] != before[len(before)-2] {
		t.Errorf("left: %v", left)
	}
	use(t, r.Client(""), a)
	if err := r.Daemon.Reload(t.Context()); err != nil || trailMismatch(t, r) != "" {
		t.Errorf("reload: %v, %s", err, trailMismatch(t, r))
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	report, err := offline(t, r, daemon.TrailOptions{})
	if err != nil || report.First == 1 || !strings.Contains(r.AuditTrail(t), `"eventName":"PruneAuditTrail"`) {
		t.Errorf("offline: %+v, %v", report, err)
	}
	r.Start(t)
	if why := trailMismatch(t, r); why != "" {
		t.Errorf("start: %s", why)
	}
	for len(segments(t, trailDir(r))) < 4 {
		use(t, r.Client(""), a)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(segments(t, trailDir(r))[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := offline(t, r, daemon.TrailOptions{}); !errors.Is(err, audit.ErrBeginning) {
		t.Errorf("a later beginning, offline: %v", err)
	}
	r.Start(t)
	if why := trailMismatch(t, r); !strings.Contains(why, audit.ErrBeginning.Error()) {
		t.Errorf("a later beginning: %q", why)
	}
	if out, ok := rig.Cmkctl(t, r, "audit", "prune", "--keep", "1", "--yes"); ok || !strings.Contains(out, "does not verify") {
		t.Errorf("pruned although the trail does not verify: %s", out)
	}
}

// TestTrailKeySwapped: checkpoints are verified with the token's key, whatever
// is published beside the trail.
func TestTrailKeySwapped(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	life(t, r)
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(r.Dir, "s", "audit-key-*.pem"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	right := readFile(t, files[0])
	if err := os.WriteFile(files[0], []byte(publicKey(t)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := offline(t, r, daemon.TrailOptions{}); !errors.Is(err, audit.ErrCheckpoint) {
		t.Errorf("another key offline: %v", err)
	}
	r.Start(t)
	if readFile(t, files[0]) != right || !strings.Contains(r.Log(), "the published audit key differed") {
		t.Error("the published key is not put right")
	}
	if state := r.Status(t).State; state != "ok" {
		t.Errorf("state %s", state)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	// Of the database: its head covers the key.
	rig.Tamper(t, r, `UPDATE system_keys SET document = json_set(document, '$.PublicKey', 'AAAA') WHERE purpose = 'audit'`)
	r.Start(t)
	if _, m := rig.AcceptState(t, r, ""); m.Mismatch == nil || !strings.HasPrefix(m.Mismatch.Reason, "rows were changed") || m.Mismatch.Trail != "" {
		t.Errorf("a key in the database: %+v", m.Mismatch)
	}
}
