package audit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cmkd/daemon/audit/event"
)

// found says who finds an attack.
type found struct {
	start, sighup bool // before the daemon starts; under the running daemon
	offline       bool // with the public key
	head          bool // and with the last record, known from elsewhere
}

var (
	byAll     = found{true, true, true, true}
	offline   = found{false, false, true, true} // old segments are read by offline verification only
	notAlone  = found{true, true, false, true}  // offline only if the last record is known
	running   = found{false, true, false, true} // what SECURITY.md names: behind the head of the database
	byNobody  = found{}
	noDefence = byNobody
)

// attacks are the ways to change a trail. docs/audit.md has the same table.
var attacks = []struct {
	name  string
	do    func(*testing.T, *attackedTrail, string)
	found found
}{
	{"nothing", func(*testing.T, *attackedTrail, string) {}, noDefence},
	// Records.
	{"edit a record of an old segment", lines(1, func(l []string) []string { l[1] = string(forge([]byte(l[1]))); return l }), offline},
	{"edit the first record", lines(0, func(l []string) []string { l[0] = string(forge([]byte(l[0]))); return l }), byAll},
	{"edit a record at the end", lines(-1, func(l []string) []string { l[0] = string(forge([]byte(l[0]))); return l }), byAll},
	{"delete a record in the middle", lines(1, func(l []string) []string { return slices.Delete(l, 1, 2) }), offline},
	{"delete the last record of a segment", lines(1, func(l []string) []string { return l[:len(l)-1] }), byAll},
	{"swap two records", lines(1, func(l []string) []string { l[0], l[1] = l[1], l[0]; return l }), byAll},
	{"repeat a record", lines(1, func(l []string) []string { return append(l, l[len(l)-1]) }), offline},
	{"cut a segment inside a record", lines(1, func(l []string) []string { l[len(l)-1] = l[len(l)-1][:20]; return l }), byAll},
	// The end.
	{"cut off what the database knows of", cutTo(func(a *attackedTrail) uint64 { return a.known.Sequence - 1 }), notAlone},
	{"cut off what the last checkpoint covers", cutTo(func(*attackedTrail) uint64 { return 20 }), notAlone},
	{"cut off all but two records", cutTo(func(*attackedTrail) uint64 { return 2 }), byAll},
	{"cut off what came later", cutTo(func(a *attackedTrail) uint64 { return a.known.Sequence }), running},
	{"leave half a record at the end", lines(-1, func(l []string) []string { l[len(l)-1] += "{"; return l }), found{false, true, true, true}},
	{"add a record", addRecord, found{false, true, false, false}},
	{"repeat an old checkpoint at the end", func(t *testing.T, a *attackedTrail, dir string) {
		appendBody(t, a, dir, checkpointOf(t, a.older))
	}, found{false, true, false, false}},
	{"rewrite what came later", rewritingFrom(func(a *attackedTrail) uint64 { return a.known.Sequence + 1 }), running},
	{"rewrite the record that the database knows of, and the rest", rewritingFrom(func(a *attackedTrail) uint64 { return a.known.Sequence }), notAlone},
	// The whole trail.
	{"rewrite it, with the checkpoints of before", rewriting(func(_ uint64, b []byte, _ []link) []byte { return forge(b) }), byAll},
	{"rewrite it, with other records for checkpoints", rewriting(func(_ uint64, b []byte, _ []link) []byte {
		if isCheckpoint(b) {
			return []byte(`{"eventTime":"2026-03-01T12:00:00.000Z","eventName":"ListKeys"`)
		}
		return forge(b)
	}), byAll},
	{"rewrite it without checkpoints", rewriting(func(_ uint64, b []byte, _ []link) []byte {
		if isCheckpoint(b) {
			return nil
		}
		return forge(b)
	}), byAll},
	{"rewrite it, signed by another key of the same name", func(t *testing.T, a *attackedTrail, dir string) { resign(t, a, dir, "key-1") }, byAll},
	{"rewrite it, signed by a key of another name", func(t *testing.T, a *attackedTrail, dir string) { resign(t, a, dir, "key-2") }, byAll},
	{"put an older copy in its place", func(t *testing.T, a *attackedTrail, dir string) {
		removeSegments(t, dir)
		copyTrail(t, a.older, dir)
	}, notAlone},
	{"put another trail in its place", func(t *testing.T, _ *attackedTrail, dir string) {
		removeSegments(t, dir)
		other := newAttackedTrail(t)
		copyTrail(t, other.dir, dir)
	}, byAll},
	{"remove it", func(t *testing.T, _ *attackedTrail, dir string) { removeSegments(t, dir) }, byAll},
	// Segments.
	{"cut off the beginning of the trail", lines(0, func(l []string) []string { return l[1:] }), byAll},
	{"cut off the beginning of a segment", lines(1, func(l []string) []string { return l[1:] }), byAll},
	{"cut off the beginning of the last segment", lines(-1, func(l []string) []string { return l[1:] }), byAll},
	{"empty the oldest segment", files(func(_ string, s []segment) error { return os.Truncate(s[0].path(), 0) }), byAll},
	{"empty a segment", files(func(_ string, s []segment) error { return os.Truncate(s[1].path(), 0) }), byAll},
	{"empty the last segment", files(func(_ string, s []segment) error { return os.Truncate(s[len(s)-1].path(), 0) }), byAll},
	{"cut the last segment inside its first record", files(func(_ string, s []segment) error { return os.Truncate(s[len(s)-1].path(), 20) }), byAll},
	{"remove the oldest segment", files(func(_ string, s []segment) error { return os.Remove(s[0].path()) }), byAll},
	{"remove a segment", files(func(_ string, s []segment) error { return os.Remove(s[1].path()) }), byAll},
	{"remove the last segments", files(func(_ string, s []segment) error {
		return errors.Join(os.Remove(s[len(s)-1].path()), os.Remove(s[len(s)-2].path()))
	}), notAlone},
	{"swap two segments", files(func(dir string, s []segment) error {
		return errors.Join(os.Rename(s[1].path(), dir+"/x"), os.Rename(s[2].path(), s[1].path()), os.Rename(dir+"/x", s[2].path()))
	}), byAll},
	{"replace a segment by another", files(func(_ string, s []segment) error { return copyFile(s[2].path(), s[1].path()) }), byAll},
	{"repeat the last segment", files(func(dir string, s []segment) error {
		last := s[len(s)-1]
		return copyFile(last.path(), segment{dir, last.number + 1}.path())
	}), byAll},
	{"FIFO for the oldest segment", replaced(0, fifo), byAll},
	{"FIFO for a segment", replaced(1, fifo), byAll},
	{"FIFO for the last segment", replaced(-1, fifo), byAll},
	{"FIFO behind the last segment", files(func(dir string, s []segment) error {
		return fifo(segment{dir, s[len(s)-1].number + 1}.path(), "")
	}), byAll},
	{"folder for a segment", replaced(1, func(path, _ string) error { return os.Mkdir(path, 0o700) }), byAll},
	{"symbolic link to a segment", replaced(1, func(path, old string) error { return os.Symlink(old, path) }), byAll},
	{"symbolic link to the last segment", replaced(-1, func(path, old string) error { return os.Symlink(old, path) }), byAll},
}

func fifo(path, _ string) error { return unix.Mkfifo(path, 0o600) }

// replaced puts something else in the place of a segment.
func replaced(n int, with func(path, old string) error) func(*testing.T, *attackedTrail, string) {
	return files(func(dir string, s []segment) error {
		if n < 0 {
			n += len(s)
		}
		old := filepath.Join(dir, "moved")
		return errors.Join(os.Rename(s[n].path(), old), with(s[n].path(), old))
	})
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o600)
}

func removeSegments(t *testing.T, dir string) {
	t.Helper()
	for _, s := range segmentsOf(t, dir) {
		if err := os.Remove(s.path()); err != nil {
			t.Fatal(err)
		}
	}
}

// cutTo removes every record after one.
func cutTo(last func(*attackedTrail) uint64) func(*testing.T, *attackedTrail, string) {
	return func(t *testing.T, a *attackedTrail, dir string) {
		t.Helper()
		n := uint64(0)
		for _, s := range segmentsOf(t, dir) {
			text, err := os.ReadFile(s.path())
			if err != nil {
				t.Fatal(err)
			}
			var kept []byte
			for line := range bytes.Lines(text) {
				if n++; n <= last(a) {
					kept = append(kept, line...)
				}
			}
			if len(kept) == 0 {
				err = os.Remove(s.path())
			} else {
				err = os.WriteFile(s.path(), kept, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func rewritingFrom(first func(*attackedTrail) uint64) func(*testing.T, *attackedTrail, string) {
	return func(t *testing.T, a *attackedTrail, dir string) {
		t.Helper()
		rewriting(func(sequence uint64, body []byte, _ []link) []byte {
			if sequence >= first(a) {
				return forge(body)
			}
			return body
		})(t, a, dir)
	}
}

func resign(t *testing.T, a *attackedTrail, dir, name string) {
	t.Helper()
	other, _ := newSigner(t)
	rewriting(func(_ uint64, body []byte, links []link) []byte {
		if isCheckpoint(body) {
			return resigned(t, other, name, body, links)
		}
		return forge(body)
	})(t, a, dir)
}

func addRecord(t *testing.T, a *attackedTrail, dir string) {
	t.Helper()
	body, err := event.Append(nil, sample(1), event.MaxRecord)
	if err != nil {
		t.Fatal(err)
	}
	appendBody(t, a, dir, body)
}

// appendBody adds a record to a trail, chained as it should be.
func appendBody(t *testing.T, a *attackedTrail, dir string, body []byte) {
	t.Helper()
	s := segmentsOf(t, dir)
	line, _ := link{a.head.Sequence, a.head.Hash}.seal(nil, body)
	f, err := os.OpenFile(s[len(s)-1].path(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(line); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// checkpointOf returns the body of the first checkpoint of a trail.
func checkpointOf(t *testing.T, dir string) []byte {
	t.Helper()
	for line := range strings.Lines(readLog(t, dir)) {
		if body := line[:strings.LastIndex(line, versionName)]; isCheckpoint([]byte(body)) {
			return []byte(body)
		}
	}
	t.Fatal("no checkpoint")
	return nil
}

// TestAttacks does each of the attacks to a trail and looks who finds it:
// before the daemon starts, under the running daemon, and offline.
func TestAttacks(t *testing.T) {
	t.Parallel()
	base := newAttackedTrail(t)
	for _, c := range attacks {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var got found
			dir := t.TempDir()
			copyTrail(t, base.dir, dir)
			c.do(t, base, dir)
			opt := base.opt
			_, err := VerifyDir(dir, opt)
			got.offline = judged(t, "offline", err) || len(segmentsOf(t, dir)) == 0
			opt.Sequence, opt.Hash = base.head.Sequence, base.head.Hash
			_, err = VerifyDir(dir, opt)
			got.head = judged(t, "offline with the head", err)
			l := openLog(t, base.config(dir))
			got.start = judged(t, "start", l.Check(base.known, opt.Signature))
			checkSigned(t, l, got.start)

			dir = t.TempDir()
			copyTrail(t, base.dir, dir)
			l = openLog(t, base.config(dir))
			if err := l.Check(base.known, opt.Signature); err != nil {
				t.Fatal(err)
			}
			c.do(t, base, dir)
			got.sighup = judged(t, "reload", l.Check(base.known, opt.Signature))
			checkSigned(t, l, got.sighup)
			if got != c.found {
				t.Errorf("found by %+v, want %+v", got, c.found)
			}
		})
	}
}

// judged reports whether verification found something.
func judged(t *testing.T, who string, err error) bool {
	t.Helper()
	if err == nil {
		return false
	}
	t.Logf("%s: %v", who, err)
	if !IsProblem(err) {
		t.Errorf("%s: not a problem of the trail: %v", who, err)
	}
	return true
}

// checkSigned checks that nothing is signed if anything differs.
func checkSigned(t *testing.T, l *Log, differs bool) {
	t.Helper()
	if !differs {
		return
	}
	before := l.signedBy
	if err := errors.Join(l.Append(context.Background(), sample(1)), l.Checkpoint(t.Context())); err != nil && !errors.Is(err, ErrBroken) {
		t.Error(err)
	}
	if l.signedBy != before {
		t.Error("a checkpoint was made of a trail that does not verify")
	}
}
