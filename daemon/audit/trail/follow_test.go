package trail_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmkd/daemon/audit"
	"cmkd/daemon/audit/trail"
	"cmkd/testenv/trails"
)

// TestFollow follows a trail over the ends of many segments while it is written, and
// while older ones are removed or moved away: each record comes once, in order.
func TestFollow(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	l, err := audit.Open(audit.Config{Dir: dir, SegmentBytes: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	const n = 1500
	written := make(chan error, 1)
	got := make(chan uint64)
	go func() {
		err := trail.Follow(t.Context(), dir, trail.Query{}, 0, func(e *trail.Event) error {
			got <- e.Sequence
			if e.Sequence == n {
				return trail.Stop
			}
			return nil
		})
		close(got)
		written <- err
	}()
	next := uint64(0)
	for i := range n {
		if err := l.Append(context.Background(), trails.Record(i)); err != nil {
			t.Fatal(err)
		}
		if i%3 != 0 {
			continue
		}
		for next < uint64(i) { // the follower is behind, not far
			if next++; <-got != next {
				t.Fatalf("record %d is not next", next)
			}
		}
		segments, err := audit.Segments(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(segments) > 2 { // the follower may still be in it
			if i%2 == 0 {
				err = os.Remove(segments[0].Path())
			} else {
				err = os.Rename(segments[0].Path(), segments[0].Path()+".away")
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for s := range got {
		if next++; s != next {
			t.Fatalf("record %d comes after %d", s, next-1)
		}
	}
	if err := errors.Join(<-written, l.Close()); err != nil || next != n {
		t.Errorf("%d records, %v", next, err)
	}
}

// TestReaderFrom begins behind any record.
func TestReaderFrom(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	if err := trails.Write(trails.Config{Dir: dir, Records: 100, SegmentBytes: 10_000}); err != nil {
		t.Fatal(err)
	}
	for after := range uint64(101) {
		r := trail.NewReader(dir, after)
		want := after
		for {
			line, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if want++; err != nil || audit.LineSequence(line) != want {
				t.Fatalf("behind %d: %s, %v", after, line, err)
			}
		}
		if want != 100 {
			t.Errorf("behind %d: it ends with %d", after, want)
		}
		r.Close()
	}
}

// TestReaderTakenBack: lines that were taken back are replaced by what came instead.
func TestReaderTakenBack(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	if err := trails.Write(trails.Config{Dir: dir, Records: 10}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "audit-000001.jsonl")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	append2 := func(from int) {
		l, err := audit.Open(audit.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			if err := l.Append(context.Background(), trails.Record(from+i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r := trail.NewReader(dir, 0)
	defer r.Close()
	read := func(n int) (last []byte) {
		for range n {
			line, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			last = line
		}
		return last
	}
	append2(10)
	read(12)
	if err := os.Truncate(path, info.Size()); err != nil {
		t.Fatal(err)
	}
	if line, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Fatalf("%s, %v", line, err)
	}
	append2(20)
	if line := read(2); audit.LineSequence(line) != 12 || audit.LineTime(line) != trails.Record(21).EventTime.Format(audit.TimeFormat) {
		t.Errorf("read %s", line)
	}
}

// TestLastStray: a line at the end that is not a record hides neither the last record nor
// what comes after it, and brings back nothing.
func TestLastStray(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	if err := trails.Write(trails.Config{Dir: dir, Records: 100}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "audit-000001.jsonl")
	add := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	line := string(text[bytes.LastIndexByte(text[:len(text)-1], '\n')+1:])
	add("not a record\n{}\n")
	events, last, err := trail.Last(t.Context(), trail.Dir(dir), trail.Query{}, 3)
	if err != nil || last != 100 || len(events) != 3 || events[0].Sequence != 100 {
		t.Fatalf("%d events, %d, %v", len(events), last, err)
	}
	add(strings.Replace(line, `"sequence":100,`, `"sequence":101,`, 1))
	var got []uint64
	if err := trail.Follow(t.Context(), dir, trail.Query{}, last, func(e *trail.Event) error {
		got = append(got, e.Sequence)
		return trail.Stop
	}); err != nil || got[0] != 101 {
		t.Errorf("%v follow, %v", got, err)
	}
}

func TestLast(t *testing.T) {
	t.Parallel()
	dir := write(t, 100, nil)
	events, last, err := trail.Last(t.Context(), trail.Dir(dir), trail.Query{Outcome: trail.Refused}, 1)
	if err != nil || last != 100 || len(events) != 1 || events[0].Sequence != 58 {
		t.Errorf("%v, %d, %v", events, last, err)
	}
}
