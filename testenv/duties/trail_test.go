package duties

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/daemon/audit"
	"cmkd/socket/operatorapi"
	"cmkd/testenv/rig"
)

// answered is what the daemon answers while it is read. The test closes it.
type answered struct{ *http.Response }

// reading asks for records of the trail.
func reading(t *testing.T, ctx context.Context, c *http.Client, query string) answered { //nolint:revive // as in tests
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+operatorapi.ReadTrail.Path, strings.NewReader(query))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	return answered{answer}
}

// TestReadTrail: an auditor gets the lines of the trail as they are, those that fit the
// query, and the trail has who asked for what.
func TestReadTrail(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true, Tables: tables})
	id := newKey(t, r)
	for range 5 {
		if _, err := r.Client("").DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id}); err != nil {
			t.Fatal(err)
		}
	}
	var want []string
	for line := range strings.Lines(r.AuditTrail(t)) {
		if strings.Contains(line, `"eventName":"DescribeKey"`) {
			want = append(want, line)
		}
	}
	auditor := r.HTTPAs(t, people[1].user)
	for _, reverse := range []bool{false, true} {
		answer := reading(t, t.Context(), auditor, `{"operations":["describekey"],"keys":[{"id":"`+id+`"}],"reverse":`+strconv.FormatBool(reverse)+`}`)
		text, err := io.ReadAll(answer.Body)
		if err != nil || answer.Trailer.Get(operatorapi.TrailErrorTrailer) != "" {
			t.Fatal(err, answer.Trailer)
		}
		got := slices.Collect(strings.Lines(string(text)))
		if reverse {
			slices.Reverse(got)
		}
		if len(want) != 5 || !slices.Equal(got, want) {
			t.Errorf("reverse %v: %q, want %q", reverse, got, want)
		}
	}
	if all := r.AuditTrail(t); strings.Count(all, `"eventName":"ReadAuditTrail"`) != 2 || !strings.Contains(all, `"requestParameters":{"keys":[{"id":"`+id+`"}],"operations":["describekey"]`) {
		t.Errorf("nobody is recorded to have read the trail: %s", all)
	}
	answer := reading(t, t.Context(), auditor, `{"text":"no such text"}`)
	if text, err := io.ReadAll(answer.Body); err != nil || len(text) != 0 {
		t.Errorf("a search finds itself: %s, %v", text, err)
	}
	for _, bad := range []string{`{"follow":true,"reverse":true}`, `{"after":5}`, `{"unknown":1}`, `{"text":"` + strings.Repeat("x", 20<<10) + `"}`} {
		if answer := reading(t, t.Context(), auditor, bad); answer.StatusCode != http.StatusBadRequest {
			t.Errorf("%.40s: status %d", bad, answer.StatusCode)
		}
	}
}

// TestFollowTrail: what is written arrives while it is written; followers of one user are
// bounded, one that hangs up makes room, and none delays the end of the daemon.
func TestFollowTrail(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true, Tables: tables})
	id := newKey(t, r)
	auditor := r.HTTPAs(t, people[1].user)
	ctx, hangUp := context.WithCancel(t.Context())
	const follow = `{"follow":true,"operations":["DescribeKey"]}`
	first := reading(t, ctx, auditor, follow)
	var followers []answered
	for range 2 {
		followers = append(followers, reading(t, t.Context(), auditor, follow))
	}
	if answer := reading(t, t.Context(), auditor, follow); answer.StatusCode != http.StatusTooManyRequests {
		t.Errorf("the fourth of one user: status %d", answer.StatusCode)
	}
	if answer := reading(t, t.Context(), r.HTTP(), `{"sequence":1}`); answer.StatusCode != http.StatusOK {
		t.Errorf("another user: status %d", answer.StatusCode)
	}
	if _, err := r.Client("").DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id}); err != nil {
		t.Fatal(err)
	}
	for _, f := range append(followers, first) {
		line, err := bufio.NewReader(f.Body).ReadBytes('\n')
		if err != nil || !bytes.Contains(line, []byte(`"eventName":"DescribeKey"`)) || audit.LineSequence(bytes.TrimSpace(line)) == 0 {
			t.Fatalf("%s, %v", line, err)
		}
	}
	hangUp()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if answer := reading(t, t.Context(), auditor, `{"sequence":1}`); answer.StatusCode == http.StatusOK {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("one who hung up still reads: status %d", answer.StatusCode)
		}
	}
	if err := r.Stop(); err != nil { // it says so if it had to cut off calls
		t.Error(err)
	}
	for _, f := range followers {
		if _, err := io.ReadAll(f.Body); err != nil || f.Trailer.Get(operatorapi.TrailErrorTrailer) != "" {
			t.Errorf("the answer is not whole: %v, %v", err, f.Trailer)
		}
	}
	if _, err := io.ReadAll(first.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("one who hung up reads on: %v", err)
	}
}
