package states_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"golang.org/x/sys/unix"

	"cmkd/testenv/rig"
)

// get is the body and the HTTP status of an operators' endpoint.
func get(t *testing.T, r *rig.Rig, path string) (string, int) {
	t.Helper()
	status, text := r.Ask(t, http.MethodGet, path, "")
	return text, status
}

// post is get with a body.
func post(t *testing.T, r *rig.Rig, path, body string) (string, int) {
	t.Helper()
	status, text := r.Ask(t, http.MethodPost, path, body)
	return text, status
}

// says waits until the status has the state, and a reason in the member if the
// state is not ok, and checks that the metric agrees.
func says(t *testing.T, r *rig.Rig, state, member, metric string) {
	t.Helper()
	var last string
	eventually(t, "status "+state+" "+member, func() bool {
		body, code := get(t, r, "/status")
		var s map[string]any
		if err := json.Unmarshal([]byte(body), &s); err != nil {
			t.Fatal(err)
		}
		last = body
		reason, _ := s[member].(string)
		return s["state"] == state && (code == http.StatusOK) == (state == "ok") && (reason == "") == (state == "ok")
	})
	want := metric + map[bool]string{true: " 1\n", false: " 0\n"}[state == "ok"]
	if metrics, _ := get(t, r, "/metrics"); !strings.Contains(metrics, want) {
		t.Errorf("status %s: the metrics have no %q\n%s", state, want, last)
	}
}

// lock keeps the database locked, as another process would, until release.
func lock(t *testing.T, r *rig.Rig) (release func()) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(r.Dir, "s", "cmkd.db")+"?_txlock=immediate&_pragma=busy_timeout(60000)")
	if err != nil {
		t.Fatal(err)
	}
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := errors.Join(tx.Rollback(), db.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestDatabaseLocked: while another process keeps the database locked,
// cryptography goes on, also under keys that have not been used since the start,
// and changes fail together. The status says so, and is well again on its own.
func TestDatabaseLocked(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c := r.Client("")
	var ids []string
	for range 8 {
		ids = append(ids, rig.NewKey(t, c, &kms.CreateKeyInput{}))
	}
	says(t, r, "ok", "databaseError", "cmkd_database_writable")
	release := lock(t, r)
	var changes sync.WaitGroup
	failed := make(chan time.Duration, 16)
	for i := range cap(failed) {
		changes.Go(func() {
			began := time.Now()
			_, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &ids[i%len(ids)]})
			if rig.Code(err) != "KMSInternalException" || !strings.Contains(err.Error(), "database") {
				t.Errorf("DisableKey with a locked database: %v", err)
			}
			failed <- time.Since(began)
		})
	}
	for _, id := range ids {
		if err := rig.EncryptWith(t, c, id); err != nil {
			t.Errorf("the first Encrypt under a key: %v", err)
		}
	}
	changes.Wait()
	close(failed)
	var first, last time.Duration
	for took := range failed {
		if first == 0 || took < first {
			first = took
		}
		last = max(last, took)
	}
	if last > 4*first {
		t.Errorf("changes failed between %s and %s: they wait behind each other", first, last)
	}
	says(t, r, "degraded", "databaseError", "cmkd_database_writable")
	release()
	says(t, r, "ok", "databaseError", "cmkd_database_writable")
	if _, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &ids[0]}); err != nil {
		t.Error(err)
	}
}

// limitFiles bounds the size of the files that the daemon writes: for a file that
// grows it is what a full disk is.
func limitFiles(t *testing.T, r *rig.Rig, size uint64) {
	t.Helper()
	limit := unix.Rlimit{Cur: size, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(r.Process.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		t.Fatal(err)
	}
}

// TestDatabaseFull: without room for the database cryptography goes on, and
// nothing can be changed until there is room.
func TestDatabaseFull(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{Process: true})
	c := r.Client("")
	used, unused := rig.NewKey(t, c, &kms.CreateKeyInput{}), rig.NewKey(t, c, &kms.CreateKeyInput{})
	log, err := os.Stat(filepath.Join(r.Dir, "s", "cmkd.db-wal"))
	if err != nil {
		t.Fatal(err)
	}
	trail := len(r.AuditTrail(t))
	if log.Size() < int64(trail)*2 {
		t.Fatalf("the database's log has %d bytes, the trail %d: the limit cannot be between them", log.Size(), trail)
	}
	limitFiles(t, r, uint64(log.Size()))
	for _, id := range []string{used, unused} {
		if err := rig.EncryptWith(t, c, id); err != nil {
			t.Errorf("Encrypt with a full database: %v", err)
		}
	}
	if _, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &used}); rig.Code(err) != "KMSInternalException" || !strings.Contains(err.Error(), "database") {
		t.Errorf("DisableKey with a full database: %v", err)
	}
	says(t, r, "degraded", "databaseError", "cmkd_database_writable")
	limitFiles(t, r, unix.RLIM_INFINITY)
	says(t, r, "ok", "databaseError", "cmkd_database_writable")
	if _, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &unused}); err != nil {
		t.Error(err)
	}
	if err := rig.EncryptWith(t, c, used); err != nil {
		t.Error(err)
	}
}

// TestStartFull: a daemon starts where there is no room for SQLite's own files,
// and serves cryptography.
func TestStartFull(t *testing.T) {
	t.Parallel()
	limit := filepath.Join(t.TempDir(), "limit")
	r := rig.New(t, rig.Config{Process: true, Wrap: []string{"sh", "-c", `if test -e "$0"; then ulimit -S -f "$(cat "$0")"; fi; exec "$@"`, limit}})
	c := r.Client("")
	id := rig.NewKey(t, c, &kms.CreateKeyInput{})
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	// 28 KiB: SQLite's shared memory takes 32, the trail less.
	if err := os.WriteFile(limit, []byte("56"), 0o600); err != nil {
		t.Fatal(err)
	}
	if trail := len(r.AuditTrail(t)); trail > 20<<10 {
		t.Fatalf("the trail has %d bytes", trail)
	}
	r.Start(t)
	if err := rig.EncryptWith(t, c, id); err != nil {
		t.Errorf("Encrypt with a full database: %v", err)
	}
	says(t, r, "degraded", "databaseError", "cmkd_database_writable")
	limitFiles(t, r, unix.RLIM_INFINITY)
	if err := os.Remove(limit); err != nil {
		t.Fatal(err)
	}
	says(t, r, "ok", "databaseError", "cmkd_database_writable")
	if _, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &id}); err != nil {
		t.Error(err)
	}
}

// TestStartLocked: a daemon starts while another process keeps its database
// locked. It serves cryptography, and its epoch begins when it can.
func TestStartLocked(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c := r.Client("")
	id := rig.NewKey(t, c, &kms.CreateKeyInput{})
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	release := lock(t, r)
	r.Start(t)
	if err := rig.EncryptWith(t, c, id); err != nil {
		t.Errorf("Encrypt with a locked database: %v", err)
	}
	says(t, r, "degraded", "epochError", "cmkd_database_epoch_current")
	release()
	if err := r.Daemon.RunJobs(t.Context()); err != nil {
		t.Error(err)
	}
	says(t, r, "ok", "epochError", "cmkd_database_epoch_current")
}

// TestTrailBroken: the status says that the trail cannot be written, and why, and
// is well again on its own.
func TestTrailBroken(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c := r.Client("")
	id := rig.NewKey(t, c, &kms.CreateKeyInput{})
	says(t, r, "ok", "auditError", "cmkd_audit_writable")
	segment := filepath.Join(r.Dir, "s", "audit", "audit-000001.jsonl")
	if err := os.Rename(segment, segment+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(segment, 0o700); err != nil { // so that none is begun in its place
		t.Fatal(err)
	}
	if err := rig.EncryptWith(t, c, id); rig.Code(err) != "KMSInternalException" {
		t.Errorf("Encrypt without a trail: %v", err)
	}
	says(t, r, "degraded", "auditError", "cmkd_audit_writable")
	if err := errors.Join(os.Remove(segment), os.Rename(segment+".away", segment)); err != nil {
		t.Fatal(err)
	}
	says(t, r, "ok", "auditError", "cmkd_audit_writable")
	if err := rig.EncryptWith(t, c, id); err != nil {
		t.Error(err)
	}
}
