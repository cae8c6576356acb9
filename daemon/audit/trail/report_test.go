package trail_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmkd/daemon/audit/event"
	"cmkd/daemon/audit/trail"
	"cmkd/testenv/trails"
)

// TestReport: all records are counted, once.
func TestReport(t *testing.T) {
	t.Parallel()
	const n = 8000
	dir := write(t, n, nil)
	uses, err := trail.Report(t.Context(), trail.Dir(dir), trail.Query{})
	if err != nil {
		t.Fatal(err)
	}
	type about struct{ key, user string }
	want := map[about][3]uint64{}
	for i := range n {
		r := trails.Record(i)
		a := about{r.Resources[0].ARN, r.UserIdentity.ARN}
		count := want[a]
		switch r.ErrorCode {
		case "":
			count[0]++
		case "AccessDeniedException":
			count[1]++
		default:
			count[2]++
		}
		want[a] = count
	}
	if len(uses) != len(want) {
		t.Errorf("%d rows, want %d", len(uses), len(want))
	}
	for _, u := range uses {
		if got := [3]uint64{u.Used, u.Refused, u.Failed}; got != want[about{u.Key, u.Principal}] || u.Day != "2026-03-01" {
			t.Errorf("%+v, want %v", u, want[about{u.Key, u.Principal}])
		}
		sum := uint64(0)
		for _, n := range u.Operations {
			sum += n
		}
		if sum != u.Used+u.Refused+u.Failed {
			t.Errorf("%+v", u)
		}
	}
}

// TestExport: more files than are open at once, records that come late, and all of them
// there, each in its file.
func TestExport(t *testing.T) {
	t.Parallel()
	const n = 3000
	record := func(i int) *event.Record {
		r := trails.Record(i)
		day := i / 100
		if i%100 == 99 {
			day-- // a call that took past midnight
		}
		r.EventTime = trails.Start.Add(time.Duration(day) * 24 * time.Hour)
		return r
	}
	dir := write(t, n, record)
	to := t.TempDir()
	for range 2 { // again over what is there
		files, records, err := trail.Export(t.Context(), trail.Dir(dir), to, trail.Query{}, "1", "r")
		if err != nil || records != n || len(files) != 61 {
			t.Fatalf("%d files, %d records, %v", len(files), records, err)
		}
		seen := map[string]bool{}
		for _, file := range files {
			for _, r := range readExport(t, file) {
				id, at, region := r["eventID"].(string), r["eventTime"].(string), r["awsRegion"].(string)
				if seen[id] || !strings.Contains(file, "/"+region+"/"+strings.ReplaceAll(at[:10], "-", "/")+"/") || r["hash"] != nil || r["sequence"] != nil {
					t.Fatalf("%s has %v", file, r)
				}
				seen[id] = true
			}
		}
		if len(seen) != n {
			t.Errorf("%d records are in the files", len(seen))
		}
	}
	// What fails leaves nothing.
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	segment := filepath.Join(dir, "audit-000002.jsonl")
	if err := os.WriteFile(segment, []byte("{not a record}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fresh := t.TempDir()
	if _, _, err := trail.Export(t.Context(), trail.Dir(dir), fresh, trail.Query{}, "1", "r"); err == nil {
		t.Error("a broken trail was exported")
	}
	if left, _ := filepath.Glob(fresh + "/AWSLogs/*/*/*/*/*/*/*"); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func readExport(t *testing.T, file string) []map[string]any {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var content struct{ Records []map[string]any }
	if err := json.Unmarshal(text, &content); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return content.Records
}
