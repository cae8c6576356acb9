package audit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestReopen breaks the log by closing its file underneath it.
func TestReopen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, Config{Dir: dir})
	appendN(t, l, 2)
	if err := l.Reopen(); err != nil {
		t.Errorf("a sound log: %v", err)
	}
	if err := l.at.file.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Append(t.Context(), sample(1)); !errors.Is(err, ErrBroken) || !errors.Is(err, os.ErrClosed) {
			t.Fatalf("got %v", err)
		}
	}
	// A write that reached the file before it failed.
	f, err := os.OpenFile(l.at.segment.path(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	lines, _ := l.durable.seal(nil, []byte(`{"eventName":"Lost"`))
	if _, err := f.Write(lines); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	if err := l.Err(); err != nil {
		t.Error(err)
	}
	appendN(t, l, 1)
	closeLog(t, l)
	// The first of the two that failed was handed in, and is written late.
	report, err := VerifyDir(dir, VerifyOptions{})
	if err != nil || report.Records != 5 || report.Outages != 1 || strings.Contains(readLog(t, dir), "Lost") {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestEndBroken ends a log that is broken: what waits is written if there is room
// again, and else the end says that it is lost.
func TestEndBroken(t *testing.T) {
	t.Parallel()
	for _, room := range []bool{true, false} {
		dir := filepath.Join(t.TempDir(), "audit")
		l := openLog(t, Config{Dir: dir})
		appendN(t, l, 2)
		segment := l.at.segment.path()
		if err := errors.Join(os.Rename(segment, segment+".away"), os.Mkdir(segment, 0o700)); err != nil {
			t.Fatal(err)
		}
		if err := l.Append(t.Context(), sample(1)); !errors.Is(err, ErrBroken) {
			t.Fatalf("got %v", err)
		}
		if room {
			if err := errors.Join(os.Remove(segment), os.Rename(segment+".away", segment)); err != nil {
				t.Fatal(err)
			}
		}
		final, err := l.End()
		if lost := err != nil && strings.Contains(err.Error(), "1 records"); final != room || lost == room || room && err != nil {
			t.Errorf("room %t: final %t, %v", room, final, err)
		}
		if closed := l.Close(); (closed == nil) != room {
			t.Errorf("Close: %v", closed)
		}
		if !room {
			continue
		}
		if report, err := VerifyDir(dir, VerifyOptions{}); err != nil || report.Records != 4 || report.Outages != 1 {
			t.Errorf("%+v, %v", report, err)
		}
	}
}

// TestRemoved takes the segment, or the whole directory, away under the log.
// What nobody will find is not acknowledged.
func TestRemoved(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		remove func(dir string) error
		back   func(dir string) error
		// Of the log that is there afterwards.
		first, last uint64
		missing     bool
	}{
		{"directory moved away and back", func(dir string) error {
			return os.Rename(dir, dir+"-away")
		}, func(dir string) error {
			return os.Rename(dir+"-away", dir)
		}, 1, 5, false},
		{"directory removed", os.RemoveAll, nil, 3, 5, true},
		{"segment removed", func(dir string) error {
			return os.Remove(filepath.Join(dir, "audit-000001.jsonl"))
		}, nil, 3, 5, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "audit")
			l := openLog(t, Config{Dir: dir})
			appendN(t, l, 2)
			if err := tt.remove(dir); err != nil {
				t.Fatal(err)
			}
			if err := l.Append(t.Context(), sample(1)); !errors.Is(err, ErrBroken) || !errors.Is(err, errMoved) {
				t.Fatalf("recorded where nobody finds it: %v", err)
			}
			<-l.Broken()
			if tt.back != nil {
				if err := tt.back(dir); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Reopen(); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(Config{Dir: dir}); !errors.Is(err, ErrLocked) {
				t.Errorf("the lock is lost: %v", err)
			}
			appendN(t, l, 1)
			sequence, hash := l.Head()
			closeLog(t, l)
			report, err := VerifyDir(dir, VerifyOptions{Sequence: sequence, Hash: hash})
			if errors.Is(err, ErrBeginning) != tt.missing || err != nil && !tt.missing || report.First != tt.first || report.Last != tt.last || report.Outages != 1 {
				t.Errorf("%+v, %v", report, err)
			}
			if strings.Contains(readLog(t, dir), `"missing":"audit-000001.jsonl"`) != tt.missing {
				t.Errorf("missing segment: %s", readLog(t, dir))
			}
			closeLog(t, openLog(t, Config{Dir: dir}))
		})
	}
}

// TestMovedAndPutBack: a segment that was moved away ends where the next one begins, so
// that the trail is whole when it is put back.
func TestMovedAndPutBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, Config{Dir: dir})
	appendN(t, l, 2)
	first, away := l.at.segment.path(), filepath.Join(t.TempDir(), "away")
	if err := os.Rename(first, away); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), sample(1)); !errors.Is(err, errMoved) {
		t.Fatal(err)
	}
	wholeAfter(t, l, func() error { return os.Rename(away, first) })
}

// wholeAfter has a broken log go on, ends it, puts a segment back, and wants the trail whole.
func wholeAfter(t *testing.T, l *Log, back func() error) {
	t.Helper()
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	appendN(t, l, 1)
	closeLog(t, l)
	if err := back(); err != nil {
		t.Fatal(err)
	}
	if report, err := VerifyDir(l.cfg.Dir, VerifyOptions{}); err != nil || report.First != 1 || report.Outages != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
}

// TestMovedWhileWritten: the same, at any moment of a write.
func TestMovedWhileWritten(t *testing.T) {
	t.Parallel()
	for round := range 50 {
		dir := t.TempDir()
		l := openLog(t, Config{Dir: dir})
		appendN(t, l, 1)
		first, away := l.at.segment.path(), filepath.Join(t.TempDir(), "away")
		begun, appending := make(chan struct{}), make(chan error)
		go func() {
			for i := 0; ; i++ {
				if i == round%5 {
					close(begun)
				}
				if err := l.Append(context.Background(), sample(1)); err != nil {
					appending <- err
					return
				}
			}
		}()
		<-begun
		time.Sleep(time.Duration(round) * 5 * time.Microsecond) // somewhere in a write
		if err := os.Rename(first, away); err != nil {
			t.Fatal(err)
		}
		if err := <-appending; !errors.Is(err, errMoved) {
			t.Fatal(err)
		}
		wholeAfter(t, l, func() error { return os.Rename(away, first) })
	}
}

// TestRemovedInPart: the log does not go on behind a hole.
func TestRemovedInPart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, Config{Dir: dir, SegmentBytes: 2000})
	for l.at.segment.number < 3 {
		appendN(t, l, 1)
	}
	if err := os.Remove(l.at.segment.path()); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), sample(1)); !errors.Is(err, ErrBroken) {
		t.Fatal(err)
	}
	if err := l.Reopen(); !errors.Is(err, ErrChain) {
		t.Errorf("went on behind a hole: %v", err)
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, "audit-000001.jsonl")), os.Remove(filepath.Join(dir, "audit-000002.jsonl"))); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Error(err)
	}
	closeLog(t, l)
}
