package audit

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"cmkd/daemon/audit/event"
)

var golden = flag.Bool("golden", false, "write testdata/v1.jsonl anew")

// goldenRecords show every field, left out and filled in.
func goldenRecords() []*event.Record {
	full := sample(2)
	full.EventVersion, full.EventSource, full.EventType = "9.99", "other.example", "Other"
	full.UserIdentity.AccessKeyID, full.UserIdentity.InvokedBy = "AKIAEXAMPLE", "service.example"
	full.SourceIPAddress, full.ErrorCode, full.ErrorMessage = "127.0.0.1", "AccessDeniedException", "not \"you\"\n\xff"
	full.ResponseElements, full.ReadOnly, full.ManagementEvent = jsontext.Value(" [ ] "), false, false
	full.AdditionalEventData.Details = jsontext.Value(`{"route":"token"}`)
	full.Resources = append(full.Resources, event.Resource{ARN: "arn:x", Type: "AWS::KMS::Alias"})
	return []*event.Record{sample(1), full, {EventTime: sample(1).EventTime, EventID: "e", EventName: "GenerateRandom"}}
}

// TestGolden fixes the format: the same records give the same bytes.
func TestGolden(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, Config{Dir: dir})
	for _, r := range goldenRecords() {
		if err := l.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
	got := readLog(t, dir)
	if *golden {
		if err := os.WriteFile("testdata/v1.jsonl", []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/v1.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if _, err := Verify(strings.NewReader(got), VerifyOptions{}); err != nil {
		t.Error(err)
	}
	// Another reader of JSON sees what was meant.
	var event struct {
		EventName    string
		ErrorMessage string
		ReadOnly     bool
		Sequence     int
		UserIdentity struct{ ARN string }
		Additional   struct {
			Peer struct{ UID int }
		} `json:"additionalEventData"`
	}
	if err := json.Unmarshal([]byte(strings.Split(got, "\n")[1]), &event); err != nil {
		t.Fatal(err)
	}
	if event.EventName != "Decrypt" || event.ErrorMessage != "not \"you\"\n\ufffd" || event.Sequence != 2 ||
		event.UserIdentity.ARN != "arn:aws:iam::111122223333:user/deploy" || event.Additional.Peer.UID != 1001 {
		t.Errorf("%+v", event)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, Config{Dir: dir})
	r := &event.Record{EventName: "ListKeys"}
	for range 2 {
		if err := l.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if r.EventID != "" || !r.EventTime.IsZero() {
		t.Error("the caller's record was changed")
	}
	type event struct{ EventID, EventTime, EventSource, EventType, EventVersion string }
	var events [2]event
	for i, line := range strings.Split(strings.TrimSpace(readLog(t, dir)), "\n") {
		if err := json.Unmarshal([]byte(line), &events[i]); err != nil {
			t.Fatal(err)
		}
	}
	e := events[0]
	if len(e.EventID) != 36 || e.EventID == events[1].EventID || e.EventTime == "" ||
		e.EventSource != "kms.amazonaws.com" || e.EventType != "AwsApiCall" || e.EventVersion != "1.11" {
		t.Errorf("%+v", events)
	}
}

// TestRefused: a record that cannot be written leaves the log sound.
func TestRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, Config{Dir: dir})
	for name, c := range map[string]struct {
		change func(*event.Record)
		want   error
	}{
		"no JSON":         {func(r *event.Record) { r.RequestParameters = jsontext.Value(`{"a":SECRET}`) }, event.ErrInvalidRecord},
		"two values":      {func(r *event.Record) { r.ResponseElements = jsontext.Value(`1 2`) }, event.ErrInvalidRecord},
		"empty value":     {func(r *event.Record) { r.ResponseElements = jsontext.Value{} }, event.ErrInvalidRecord},
		"duplicate names": {func(r *event.Record) { r.RequestParameters = jsontext.Value(`{"SECRET":1,"SECRET":2}`) }, event.ErrInvalidRecord},
		"invalid UTF-8":   {func(r *event.Record) { r.AdditionalEventData.Details = jsontext.Value("\"SECRET\xff\"") }, event.ErrInvalidRecord},
		"the log's own":   {func(r *event.Record) { r.EventSource = ownSource }, event.ErrInvalidRecord},
	} {
		r := sample(1)
		c.change(r)
		err := l.Append(t.Context(), r)
		if !errors.Is(err, c.want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := strings.Repeat("\x7f", 1<<20)
	r := sample(1)
	r.UserAgent, r.ErrorMessage, r.EventName, r.UserIdentity.ARN = long, long, long, long
	r.RequestParameters = jsontext.Value(`{"policy":"` + strings.Repeat("x", 1<<20) + `"}`)
	r.ResponseElements, r.ServiceEventDetails = r.RequestParameters, r.RequestParameters
	if err := l.Append(t.Context(), r); err != nil {
		t.Errorf("a record of the greatest length: %v", err)
	}
	closeLog(t, l)
	closeLog(t, openLog(t, Config{Dir: dir}))
	if report, err := VerifyDir(dir, VerifyOptions{}); err != nil || report.Records != 1 {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestConcurrent appends from many goroutines over several segments and
// sessions: one chain, each record once.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit") // Open creates it
	const sessions, callers, each = 3, 32, 20
	for s := range sessions {
		l := openLog(t, Config{Dir: dir, SegmentBytes: 50_000})
		var all sync.WaitGroup
		for c := range callers {
			all.Go(func() {
				for i := range each {
					r := sample(0)
					r.RequestID = fmt.Sprintf("%d-%d-%d", s, c, i)
					if err := l.Append(t.Context(), r); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		sequence, hash := l.Head()
		closeLog(t, l)
		report, err := VerifyDir(dir, VerifyOptions{Sequence: sequence, Hash: hash})
		if err != nil || report.Records != uint64((s+1)*callers*each) || report.Last != sequence || report.Hash != hash {
			t.Fatalf("session %d: %+v, %v", s, report, err)
		}
	}
	text := readLog(t, dir)
	for s := range sessions {
		for c := range callers {
			for i := range each {
				if n := strings.Count(text, fmt.Sprintf(`"requestID":"%d-%d-%d"`, s, c, i)); n != 1 {
					t.Fatalf("record %d-%d-%d is there %d times", s, c, i, n)
				}
			}
		}
	}
	segments, err := listSegments(dir)
	if err != nil || len(segments) < 10 {
		t.Fatalf("%d segments, %v", len(segments), err)
	}
	for _, s := range segments {
		info, err := os.Stat(s.path())
		if err != nil || info.Size() > 50_000 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", s.path(), info, err)
		}
	}
}

// TestCancelled: a record handed in by a caller who has gone is not lost, and
// the caller is not told that it is there.
func TestCancelled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, Config{Dir: dir})
	ctx, cancel := context.WithCancel(t.Context())
	l.io.Lock() // the disk hangs
	gone := make(chan error)
	go func() { gone <- l.Append(ctx, sample(1)) }()
	go func() { gone <- l.Append(ctx, sample(2)) }()
	for queued := 0; queued < 2; {
		l.mu.Lock()
		queued = int(l.tip.sequence)
		l.mu.Unlock()
	}
	cancel()
	for range 2 {
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	if err := l.Append(ctx, sample(3)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
	if sequence, _ := l.Head(); sequence != 0 {
		t.Errorf("head is %d while nothing is durable", sequence)
	}
	l.io.Unlock()
	closeLog(t, l)
	report, err := VerifyDir(dir, VerifyOptions{})
	if err != nil || report.Records != 3 {
		t.Errorf("%+v, %v", report, err)
	}
}

// longElements is how long the parameters of a record may be, in bytes.
const longElements = 100 << 10

// TestBacklog: a disk that hangs does not eat the memory.
func TestBacklog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const backlog = 4 << 20
	l := openLog(t, Config{Dir: dir, Backlog: backlog})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := sample(1)
	r.RequestParameters = jsontext.Value(`"` + strings.Repeat("x", longElements-2) + `"`)
	l.io.Lock()
	n := 0
	for ; ; n++ {
		err := l.Append(ctx, r)
		if errors.Is(err, ErrBacklog) {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if want := backlog / longElements; n < want-2 || n > want {
		t.Errorf("%d records were taken", n)
	}
	l.io.Unlock()
	closeLog(t, l)
	if report, err := VerifyDir(dir, VerifyOptions{}); err != nil || report.Records != uint64(n) {
		t.Errorf("%d records were taken: %+v, %v", n, report, err)
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	l := openLog(t, Config{Dir: t.TempDir()})
	appendN(t, l, 1)
	closeLog(t, l)
	closeLog(t, l)
	for what, err := range map[string]error{
		"Append": l.Append(t.Context(), sample(1)), "Err": l.Err(), "Reopen": l.Reopen(),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if sequence, _ := l.Head(); sequence != 1 {
		t.Errorf("head is %d", sequence)
	}
}
