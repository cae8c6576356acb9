package backup_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"cmkd/daemon/backup"
)

var update = flag.Bool("update", false, "write testdata again")

// sample is a backup with two rows, as the key "key" authenticates it.
func sample(t testing.TB, head bool) []byte {
	t.Helper()
	var out bytes.Buffer
	w := backup.NewWriter(&out, &backup.Header{
		Format: backup.Format, Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Version: "v1", Account: "123456789012",
		Token: "main", Serial: "0123", Key: strings.Repeat("0a", 16), Rows: 2, Root: strings.Repeat("1b", 32), Sequence: 7,
		Committed: time.Date(2026, 1, 2, 3, 4, 0, 5000, time.UTC), Epoch: 3, AuditSequence: 99, AuditHash: strings.Repeat("2c", 32),
	})
	for _, r := range []backup.Row{{"keys", []byte(`{"Region":"us-east-1","ID":"a"}`)}, {"settings", []byte(`{"Name":"account","Value":"}\"\"row\":"}`)}} {
		if err := w.Row(&r); err != nil {
			t.Fatal(err)
		}
	}
	if head {
		if err := w.Head(&backup.Head{Document: []byte(`{"Sequence":7}`), MAC: bytes.Repeat([]byte{0xab}, backup.MACSize)}); err != nil {
			t.Fatal(err)
		}
	}
	mac := hmac.New(sha256.New, []byte("key"))
	mac.Write(backup.Message(w.Sum()))
	if err := w.Close(&backup.Seal{Sum: w.Sum(), MAC: mac.Sum(nil)}); err != nil {
		t.Fatal(err)
	}
	if w.Size() != int64(out.Len()) {
		t.Errorf("the size is %d, want %d", w.Size(), out.Len())
	}
	return out.Bytes()
}

// authentic reads a backup and verifies its MAC.
func authentic(text []byte) (*backup.Found, error) {
	found, err := backup.Read(bytes.NewReader(text), func(*backup.Row) error { return nil })
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, []byte("key"))
	mac.Write(backup.Message(found.Seal.Sum))
	if !hmac.Equal(mac.Sum(nil), found.Seal.MAC) {
		return nil, errors.New("the MAC differs")
	}
	return found, nil
}

// TestGolden: what was written once is read for ever.
func TestGolden(t *testing.T) {
	t.Parallel()
	for file, head := range map[string]bool{"testdata/v1.cmkd-backup": true, "testdata/v1-headless.cmkd-backup": false} {
		if *update {
			if err := os.WriteFile(file, sample(t, head), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text, sample(t, head)) {
			t.Errorf("%s is not what is written today", file)
		}
		var rows []string
		found, err := backup.Read(bytes.NewReader(text), func(r *backup.Row) error {
			rows = append(rows, r.Table+" "+string(r.Document))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) != 2 || rows[1] != `settings {"Name":"account","Value":"}\"\"row\":"}` {
			t.Errorf("rows %q", rows)
		}
		if (found.Head != nil) != head || head && string(found.Head.Document) != `{"Sequence":7}` {
			t.Errorf("head %v", found.Head)
		}
		if found.Header.Sequence != 7 || found.Header.AuditSequence != 99 || found.Size != int64(len(text)) {
			t.Errorf("%+v", found)
		}
	}
}

// TestEveryBit: a backup of which any bit differs, that is cut anywhere, or that goes on,
// is refused.
func TestEveryBit(t *testing.T) {
	t.Parallel()
	whole := sample(t, true)
	if _, err := authentic(whole); err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		for bit := range 8 {
			text := bytes.Clone(whole)
			text[i] ^= 1 << bit
			if _, err := authentic(text); err == nil {
				t.Errorf("bit %d of byte %d (%q to %q) is not noticed", bit, i, whole[i], text[i])
			}
		}
		if _, err := authentic(whole[:i]); !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrFormat) {
			t.Errorf("cut after %d bytes: %v", i, err)
		}
	}
	for _, more := range []string{"\n", "x", string(whole)} {
		if _, err := authentic(append(bytes.Clone(whole), more...)); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("with %.10q behind it: %v", more, err)
		}
	}
}

// TestOtherFiles: what is not a backup is not called a damaged one.
func TestOtherFiles(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n", "SQLite format 3\x00", "{}\n", "null\n", `{"cmkdBackup":2}` + "\n", "[1]\n", strings.Repeat("x", 17<<20)} {
		if _, err := authentic([]byte(text)); !errors.Is(err, backup.ErrFormat) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

// FuzzRead: no file makes a reader fail in another way, and what it takes is what a
// writer writes.
func FuzzRead(f *testing.F) {
	f.Add(sample(f, true))
	f.Add(sample(f, false))
	f.Fuzz(func(t *testing.T, text []byte) {
		var rows []*backup.Row
		found, err := backup.Read(bytes.NewReader(text), func(r *backup.Row) error {
			rows = append(rows, r)
			return nil
		})
		if err != nil {
			return
		}
		var out bytes.Buffer
		w := backup.NewWriter(&out, &found.Header)
		for _, r := range rows {
			if err := w.Row(r); err != nil {
				t.Fatal(err)
			}
		}
		if found.Head != nil {
			if err := w.Head(found.Head); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(&found.Seal); err != nil || !bytes.Equal(out.Bytes(), text) {
			t.Errorf("%v: %q was read from %q", err, out.Bytes(), text)
		}
	})
}
