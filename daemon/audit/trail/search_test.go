package trail_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sys/unix"

	"cmkd/daemon/audit/event"
	"cmkd/daemon/audit/trail"
	"cmkd/testenv/trails"
)

// write makes a trail of n records in small segments, some of which are longer than a
// block.
func write(t testing.TB, n int, record func(int) *event.Record) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "audit")
	if err := trails.Write(trails.Config{Dir: dir, Records: n, SegmentBytes: 5 << 19, Record: record}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func search(t testing.TB, dir string, o trail.Options) []*trail.Event {
	t.Helper()
	var found []*trail.Event
	if err := trail.Search(t.Context(), dir, o, func(e *trail.Event) error {
		found = append(found, e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// TestSearch compares what is found with what was written.
func TestSearch(t *testing.T) {
	t.Parallel()
	const n = 8000
	long := jsontext.Value(`{"text":"` + strings.Repeat("long ", 18_000) + `","keyId":"none"}`)
	record := func(i int) *event.Record {
		r := trails.Record(i)
		if i%97 == 0 {
			r.RequestParameters = long
		}
		if i == 4002 {
			r.EventName, r.Resources, r.ErrorCode, r.RequestParameters = "ReadAuditTrail", nil, "", jsontext.Value(`{"keys":[{"id":"ffffffff-12ab-34cd-56ef-000000000000"}]}`)
		}
		if i == 4000 {
			r.UserIdentity.UserName, r.UserIdentity.ARN = `a"b`, `arn:aws:iam::111122223333:user/a"b`
			r.Resources, r.ErrorCode = nil, "NotFoundException"
			r.RequestParameters = jsontext.Value(`{"keyId":"eeeeeeee-12ab-34cd-56ef-000000000000"}`)
		}
		return r
	}
	dir := write(t, n, record)
	at := func(i int) time.Time { return trails.Start.Add(time.Duration(i) * trails.Step) }
	for name, c := range map[string]struct {
		query trail.Query
		want  func(i int, r *event.Record) bool
	}{
		"all": {trail.Query{}, func(int, *event.Record) bool { return true }},
		"key": {trail.Query{Keys: []trail.Key{{ID: trails.Key(7)}}}, func(_ int, r *event.Record) bool {
			return len(r.Resources) > 0 && strings.HasSuffix(r.Resources[0].ARN, trails.Key(7))
		}},
		"key of a Region": {trail.Query{Keys: []trail.Key{{"eu-central-1", trails.Key(7)}}}, func(_ int, r *event.Record) bool {
			return len(r.Resources) > 0 && strings.HasSuffix(r.Resources[0].ARN, trails.Key(7)) && r.AWSRegion == "eu-central-1"
		}},
		"two keys": {trail.Query{Keys: []trail.Key{{ID: trails.Key(7)}, {ID: trails.Key(8)}}}, func(_ int, r *event.Record) bool {
			return len(r.Resources) > 0 && (strings.HasSuffix(r.Resources[0].ARN, trails.Key(7)) || strings.HasSuffix(r.Resources[0].ARN, trails.Key(8)))
		}},
		"key in a search": {trail.Query{Keys: []trail.Key{{ID: "ffffffff-12ab-34cd-56ef-000000000000"}}}, func(int, *event.Record) bool { return false }},
		"key not found":   {trail.Query{Keys: []trail.Key{{ID: "eeeeeeee-12ab-34cd-56ef-000000000000"}}}, func(i int, _ *event.Record) bool { return i == 4000 }},
		"principal":       {trail.Query{Principal: "arn:aws:iam::111122223333:user/app-3"}, func(_ int, r *event.Record) bool { return r.UserIdentity.UserName == "app-3" }},
		"user":            {trail.Query{Principal: "app-1"}, func(_ int, r *event.Record) bool { return r.UserIdentity.UserName == "app-1" }},
		"user/":           {trail.Query{Principal: "user/app-1"}, func(_ int, r *event.Record) bool { return r.UserIdentity.UserName == "app-1" }},
		"user with quote": {trail.Query{Principal: `a"b`}, func(i int, _ *event.Record) bool { return i == 4000 }},
		"principal ID":    {trail.Query{Principal: "1003"}, func(_ int, r *event.Record) bool { return r.UserIdentity.PrincipalID == "1003" }},
		"users":           {trail.Query{Principal: "app-1*"}, func(_ int, r *event.Record) bool { return strings.HasPrefix(r.UserIdentity.UserName, "app-1") }},
		"operation":       {trail.Query{Operations: []string{"decrypt"}}, func(_ int, r *event.Record) bool { return r.EventName == "Decrypt" }},
		"operations":      {trail.Query{Operations: []string{"Decrypt", "Sign"}}, func(_ int, r *event.Record) bool { return r.EventName == "Decrypt" || r.EventName == "Sign" }},
		"ok":              {trail.Query{Outcome: trail.OK}, func(_ int, r *event.Record) bool { return r.ErrorCode == "" }},
		"refused":         {trail.Query{Outcome: trail.Refused}, func(_ int, r *event.Record) bool { return r.ErrorCode == "AccessDeniedException" }},
		"failed":          {trail.Query{Outcome: trail.Failed}, func(_ int, r *event.Record) bool { return r.ErrorCode != "" && r.ErrorCode != "AccessDeniedException" }},
		"code":            {trail.Query{Outcome: "NotFoundException"}, func(_ int, r *event.Record) bool { return r.ErrorCode == "NotFoundException" }},
		"since":           {trail.Query{Since: at(7990)}, func(i int, _ *event.Record) bool { return i >= 7990 }},
		"until":           {trail.Query{Until: at(3)}, func(i int, _ *event.Record) bool { return i < 3 }},
		"an hour":         {trail.Query{Since: at(0).Truncate(time.Hour), Until: at(0).Truncate(time.Hour).Add(time.Minute)}, func(i int, _ *event.Record) bool { return i < 300 }},
		"text":            {trail.Query{Text: "is disabled"}, func(_ int, r *event.Record) bool { return r.ErrorCode == "DisabledException" }},
		"long text":       {trail.Query{Text: "long long"}, func(i int, _ *event.Record) bool { return i%97 == 0 }},
		"Region":          {trail.Query{Region: "eu-central-1"}, func(_ int, r *event.Record) bool { return r.AWSRegion == "eu-central-1" }},
		"request":         {trail.Query{ID: record(99).RequestID}, func(i int, _ *event.Record) bool { return i == 99 }},
		"event":           {trail.Query{ID: record(98).EventID}, func(i int, _ *event.Record) bool { return i == 98 }},
		"sequence":        {trail.Query{Sequence: 7001}, func(i int, _ *event.Record) bool { return i == 7000 }},
		"all of it": {
			trail.Query{Keys: []trail.Key{{ID: trails.Key(2)}}, Principal: "app-7", Operations: []string{"Encrypt"}, Outcome: trail.Refused, Since: at(1), Until: at(7999), Text: "not authorized", Region: "eu-central-1"},
			func(_ int, r *event.Record) bool {
				return strings.HasSuffix(r.Resources[0].ARN, trails.Key(2)) && r.UserIdentity.UserName == "app-7" && r.EventName == "Encrypt" && r.ErrorCode == "AccessDeniedException" && r.AWSRegion == "eu-central-1"
			},
		},
		"chain is no text": {trail.Query{Text: `"previousHash"`}, func(int, *event.Record) bool { return false }},
		"nothing":          {trail.Query{Text: "no such text"}, func(int, *event.Record) bool { return false }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var want []uint64
			for i := range n {
				if r := record(i); len(r.Resources) > 0 && c.want(i, r) || r.Resources == nil && safely(c.want, i, r) {
					want = append(want, uint64(i+1))
				}
			}
			for _, reverse := range []bool{false, true} {
				var got []uint64
				for _, e := range search(t, dir, trail.Options{Query: c.query, Reverse: reverse}) {
					got = append(got, e.Sequence)
				}
				if reverse {
					slices.Reverse(got)
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("reverse %v: %d found, want %d", reverse, len(got), len(want))
				}
			}
		})
	}
}

// safely is want of a record without a resource.
func safely(want func(int, *event.Record) bool, i int, r *event.Record) (fits bool) {
	defer func() { _ = recover() }()
	return want(i, r)
}

// TestSearchClock: a clock that was set back hides nothing.
func TestSearchClock(t *testing.T) {
	t.Parallel()
	late := func(n int) *event.Record {
		r := trails.Record(n)
		r.EventTime = trails.Start.Add(time.Duration(n) * time.Minute)
		if n >= 3000 && n < 5000 {
			r.EventTime = r.EventTime.Add(-48 * time.Hour)
		}
		return r
	}
	dir := write(t, 8000, late)
	since, until := trails.Start.Add(10*time.Hour), trails.Start.Add(12*time.Hour)
	want := 0
	for n := range 8000 {
		if at := late(n).EventTime; !at.Before(since) && at.Before(until) {
			want++
		}
	}
	if found := search(t, dir, trail.Options{Query: trail.Query{Since: since, Until: until}}); len(found) != want {
		t.Errorf("%d found, want %d", len(found), want)
	}
}

// TestSearchStops: f's error ends the search, and Stop is none.
func TestSearchStops(t *testing.T) {
	t.Parallel()
	dir := write(t, 8000, nil)
	broken := errors.New("broken")
	for _, want := range []error{broken, nil} {
		n := 0
		err := trail.Search(t.Context(), dir, trail.Options{}, func(*trail.Event) error {
			switch n++; {
			case n == 10 && want != nil:
				return want
			case n == 10:
				return trail.Stop
			}
			return nil
		})
		if n != 10 || !errors.Is(err, want) {
			t.Errorf("%d records, %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := trail.Search(ctx, dir, trail.Options{}, func(*trail.Event) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestAlias(t *testing.T) {
	t.Parallel()
	record := func(n int) *event.Record {
		r := trails.Record(n)
		r.AWSRegion = "us-east-1"
		set := func(operation, alias, target string) {
			r.EventName, r.ErrorCode = operation, ""
			r.RequestParameters = jsontext.Value(fmt.Sprintf(`{"aliasName":%q,"targetKeyId":%q}`, alias, target))
			r.Resources = nil
		}
		switch n {
		case 3:
			set("CreateAlias", "alias/app", trails.Key(1))
		case 5:
			set("UpdateAlias", "alias/app", "arn:aws:kms:us-east-1:111122223333:key/"+trails.Key(2))
		case 6:
			set("UpdateAlias", "alias/app", trails.Key(3))
			r.ErrorCode = "NotFoundException"
		case 8:
			set("CreateAlias", "alias/app-2", trails.Key(4))
		case 9:
			r.RequestParameters, r.ErrorCode = jsontext.Value(`{"keyId":"alias/used"}`), ""
		}
		return r
	}
	dir := write(t, 20, record)
	for alias, want := range map[string][]trail.Key{
		"alias/app": {{"us-east-1", trails.Key(2)}}, "alias/app-2": {{"us-east-1", trails.Key(4)}}, "alias/used": {{"us-east-1", trails.Key(3)}}, "alias/none": {},
	} {
		if got, err := trail.Alias(t.Context(), trail.Dir(dir), alias, ""); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v", alias, got, err)
		}
	}
}

// million is where BenchmarkMillion finds or makes its trail: CMKD_TRAIL names a
// folder, CMKD_TRAIL_RECORDS how many records to make.
func million(b *testing.B) (dir string, records int) {
	records = 100_000
	if n, err := strconv.Atoi(os.Getenv("CMKD_TRAIL_RECORDS")); err == nil {
		records = n
	}
	dir = filepath.Join(b.TempDir(), "audit")
	if kept := os.Getenv("CMKD_TRAIL"); kept != "" {
		dir = kept
		if _, err := os.Stat(dir); err == nil {
			return dir, records
		}
	}
	if err := trails.Write(trails.Config{Dir: dir, Records: records, KeyFile: filepath.Join(filepath.Dir(dir), "audit-key-bench.pem")}); err != nil {
		b.Fatal(err)
	}
	return dir, records
}

// BenchmarkMillion searches a long trail.
func BenchmarkMillion(b *testing.B) {
	dir, records := million(b)
	for _, c := range []struct {
		name  string
		query trail.Query
	}{
		{"text", trail.Query{Text: "no such text"}},
		{"key", trail.Query{Keys: []trail.Key{{ID: trails.Key(7)}}}},
		{"principal", trail.Query{Principal: "app-3"}},
		{"operation", trail.Query{Operations: []string{"Sign"}}},
		{"refused", trail.Query{Outcome: trail.Refused}},
		{"hour", trail.Query{Since: trails.Start.Add(5 * time.Hour), Until: trails.Start.Add(6 * time.Hour)}},
		{"ok", trail.Query{Outcome: trail.OK}},
		{"all", trail.Query{}},
	} {
		b.Run(c.name, func(b *testing.B) {
			var found int
			var peak uint64
			before := processorTime(b)
			for b.Loop() {
				found = 0
				if err := trail.Search(b.Context(), dir, trail.Options{Query: c.query}, func(*trail.Event) error {
					if found++; found%100_000 == 0 {
						var m runtime.MemStats
						runtime.ReadMemStats(&m)
						peak = max(peak, m.HeapAlloc)
					}
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((processorTime(b)-before).Seconds()/float64(b.N), "cpu-s/op")
			b.ReportMetric(float64(found), "found")
			b.ReportMetric(float64(peak)/(1<<20), "MiB")
			b.ReportMetric(float64(records)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// processorTime is what the process has used: unlike the time that passes, it says
// something on a machine that does other things, too.
func processorTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
