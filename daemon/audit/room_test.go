package audit

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"cmkd/daemon/audit/event"
)

// TestReserve: who has room has a record, however long the backlog and the
// record, and what is left of the backlog is for the privileged.
func TestReserve(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const calls = 40
	l := openLog(t, Config{Dir: dir, Backlog: calls * event.RoomSize})
	var rooms []Room
	for _, privileged := range []bool{false, true} {
		for {
			room, err := l.Reserve(privileged)
			if errors.Is(err, ErrBacklog) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			rooms = append(rooms, room)
		}
		if want := map[bool]int{false: calls * 3 / 4, true: calls}[privileged]; len(rooms) != want {
			t.Errorf("privileged %v: room for %d calls, want %d", privileged, len(rooms), want)
		}
	}
	if err := l.Append(t.Context(), sample(0)); !errors.Is(err, ErrBacklog) {
		t.Errorf("without a room: %v", err)
	}
	var all sync.WaitGroup
	for i, room := range rooms {
		all.Go(func() {
			r := sample(i)
			r.RequestParameters = jsontext.Value(`{"keyId":"k","policy":"` + strings.Repeat("x", longElements/2) + `"}`)
			if err := l.AppendIn(context.WithoutCancel(t.Context()), r, room); err != nil {
				t.Error(err)
			}
			l.Release(room)
		})
	}
	all.Wait()
	if n := l.taken.Load(); n != 0 {
		t.Errorf("%d bytes are still taken", n)
	}
	closeLog(t, l)
	if report, err := VerifyDir(dir, VerifyOptions{}); err != nil || report.Records != calls {
		t.Errorf("%+v, %v", report, err)
	}
	if n := strings.Count(contents(t, dir), `"requestParameters":{"keyId":"k","policy":`); n != calls {
		t.Errorf("%d records name the key", n)
	}
}

func contents(t *testing.T, dir string) string {
	t.Helper()
	segments, err := listSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, s := range segments {
		text, err := os.ReadFile(s.path())
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

// TestDiskReserve: the end of the disk is for the privileged.
func TestDiskReserve(t *testing.T) {
	t.Parallel()
	l := openLog(t, Config{Dir: t.TempDir(), DiskReserve: 1 << 40})
	defer closeLog(t, l)
	s := l.Space()
	if s.Total == 0 || s.Free > s.Total || s.Low != (s.Free < 4*(s.Total/20)) || s.Reserved != (s.Free < s.Total/20) {
		t.Errorf("%+v", s)
	}
	for _, s := range []Space{{Reserved: true, Low: true}, {Low: true}, {}} {
		l.space.last.Store(&s)
		for _, privileged := range []bool{true, false} {
			l.space.at.Store(time.Now().UnixNano())
			room, err := l.Reserve(privileged)
			if refused := s.Reserved && !privileged; refused != errors.Is(err, ErrDiskLow) || !refused && err != nil {
				t.Errorf("%+v, privileged %v: %v", s, privileged, err)
			}
			l.Release(room)
		}
	}
}

// TestAppendBefore: what could not be written ahead of its deed is not written
// later, for the deed was given up; what has happened is.
func TestAppendBefore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, Config{Dir: dir})
	before, after := sample(1), sample(2)
	before.RequestID, after.RequestID = "before", "after"
	if err := l.AppendBefore(t.Context(), before, Room{}); err != nil {
		t.Fatal(err)
	}
	l.io.Lock() // both come into one batch
	if err := l.at.file.Close(); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if err := l.AppendBefore(t.Context(), before, Room{}); !errors.Is(err, ErrBroken) {
				t.Error(err)
			}
		})
		all.Go(func() {
			if err := l.Append(t.Context(), after); !errors.Is(err, ErrBroken) {
				t.Error(err)
			}
		})
	}
	for {
		l.mu.Lock()
		n := l.pending.records
		if l.writing != nil {
			n += l.writing.records
		}
		l.mu.Unlock()
		if n == 6 {
			break
		}
	}
	l.io.Unlock()
	all.Wait()
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	text := contents(t, dir)
	if b, a := strings.Count(text, `"requestID":"before"`), strings.Count(text, `"requestID":"after"`); b != 1 || a != 3 {
		t.Errorf("%d and %d records, want 1 and 3", b, a)
	}
	if report, err := VerifyDir(dir, VerifyOptions{}); err != nil || report.Records != 5 {
		t.Errorf("%+v, %v", report, err)
	}
}
