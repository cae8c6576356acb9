package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmkd/daemon"
	"cmkd/daemon/audit"
	"cmkd/testenv/rig"
)

func trailDir(r *rig.Rig) string { return filepath.Join(r.Dir, "s", "audit") }

// segments are the files of the trail, oldest first.
func segments(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "audit-*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// replaceTrail makes the trail what another folder has.
func replaceTrail(t *testing.T, from, to string) {
	t.Helper()
	for _, file := range segments(t, to) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range segments(t, from) {
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(to, filepath.Base(file)), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// rehash rebuilds the chain of a whole trail after change, as docs/audit.md
// and the package say that it is made.
func rehash(t *testing.T, dir string, change func(body string) string) {
	t.Helper()
	previous, sequence := strings.Repeat("0", 64), 0
	for _, file := range segments(t, dir) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for line := range strings.Lines(string(text)) {
			sequence++
			body := change(line[:strings.LastIndex(line, `,"chainVersion"`)])
			body += fmt.Sprintf(`,"chainVersion":1,"sequence":%d,"previousHash":"%s"`, sequence, previous)
			previous = fmt.Sprintf("%x", sha256.Sum256([]byte(body)))
			fmt.Fprintf(&out, "%s,\"hash\":\"%s\"}\n", body, previous)
		}
		if err := os.WriteFile(file, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// forged is a body with another caller in it, and no checkpoint.
func forged(body string) string {
	body = strings.ReplaceAll(body, ":root\"", ":user/eve\"")
	if strings.Contains(body, `"AuditCheckpoint"`) {
		return `{"eventVersion":"1.11","eventTime":"2026-01-01T00:00:00.000Z","eventName":"ListKeys"`
	}
	return body
}

// offline verifies the trail with the published key.
func offline(t *testing.T, r *rig.Rig, o daemon.TrailOptions) (audit.Report, error) {
	t.Helper()
	keys, err := filepath.Glob(filepath.Join(r.Dir, "s", "audit-key-*.pem"))
	if err != nil || len(keys) == 0 {
		t.Fatalf("no key: %v", err)
	}
	o.KeyFiles = keys
	if o.Tail == (audit.TailLimit{}) {
		o.Tail = audit.TailLimit{Records: daemon.DefaultUnsignedRecords, Age: daemon.DefaultUnsignedAge}
	}
	return daemon.VerifyTrail(trailDir(r), o)
}

// trailMismatch is what is wrong with the trail, as an operator sees it.
func trailMismatch(t *testing.T, r *rig.Rig) string {
	t.Helper()
	_, m := rig.AcceptState(t, r, "")
	if m.Mismatch == nil {
		return ""
	}
	return m.Mismatch.Trail
}

func checkpoints(t *testing.T, r *rig.Rig) int {
	t.Helper()
	n := 0
	for _, file := range segments(t, trailDir(r)) {
		if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		n += strings.Count(string(text), `"AuditCheckpoint"`)
	}
	return n
}

// databaseHead is what the head of the database says of the trail.
type databaseHead struct {
	AuditSequence uint64
	AuditHash     []byte
	AuditLast     bool
}

// head is the head of the database of a stopped daemon.
func head(t *testing.T, r *rig.Rig) (h databaseHead) {
	t.Helper()
	db, err := sql.Open("sqlite", rig.Database(r))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var document string
	if err := db.QueryRowContext(t.Context(), "SELECT document FROM head").Scan(&document); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(document), &h); err != nil {
		t.Fatal(err)
	}
	return h
}

const smallSegments = 3 << 10

// addRecord forges a record behind the last one.
func addRecord(t *testing.T, segment string, report *audit.Report) {
	t.Helper()
	body := `{"eventTime":"2026-01-01T00:00:00.000Z","eventName":"Decrypt"` +
		fmt.Sprintf(`,"chainVersion":1,"sequence":%d,"previousHash":"%x"`, report.Last+1, report.Hash)
	line := fmt.Sprintf("%s,\"hash\":\"%x\"}\n", body, sha256.Sum256([]byte(body)))
	if err := os.WriteFile(segment, []byte(readFile(t, segment)+line), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// publicKey is somebody's, as PEM.
func publicKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}
