package operators

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmkd/daemon/audit"
	"cmkd/daemon/audit/event"
	rows "cmkd/daemon/operator"
	"cmkd/socket/operatorapi"
	"cmkd/testenv/rig"
)

// trailRecord is what these tests read of a record.
type trailRecord struct {
	EventName, EventSource, EventID, RequestID, ErrorCode, UserAgent string

	UserIdentity        struct{ Type string }
	RequestParameters   map[string]any
	ResponseElements    map[string]any
	ReadOnly            bool
	ServiceEventDetails map[string]any
	AdditionalEventData struct {
		DatabaseSequence uint64
		Details          map[string]any
		Peer             struct{ UID uint32 }
	}

	size int
}

// recordsNamed are the records of the trail with an eventName, oldest first.
func recordsNamed(t *testing.T, r *rig.Rig, name string) []trailRecord {
	t.Helper()
	var found []trailRecord
	for line := range strings.Lines(r.AuditTrail(t)) {
		record := trailRecord{size: len(line)}
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		if record.EventName == name {
			found = append(found, record)
		}
	}
	return found
}

// ask makes a request of the API or an endpoint, with any words.
func ask(t *testing.T, c *http.Client, method, path, operation, userAgent, body string) (status int, answer map[string]any, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", userAgent)
	if operation != "" {
		req.Header.Set("X-Amz-Target", "TrentService."+operation)
	}
	status, _, raw := rig.Do(t, c, req)
	_ = json.Unmarshal([]byte(raw), &answer) // what is not JSON is text
	return status, answer, raw
}

// TestLongCallsAreRecorded: no length of what a caller says keeps the record of
// a change out of the trail, or the rest of it out of the record.
func TestLongCallsAreRecorded(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	agent := strings.Repeat("\xff", 3000)
	_, made, _ := ask(t, r.HTTP(), "POST", "/", "CreateKey", agent, `{"Description":"`+strings.Repeat(`\u007f`, 8000)+`"}`)
	keyARN, _ := made["KeyMetadata"].(map[string]any)["Arn"].(string)
	sid := strings.Repeat("\x7f", 32_000)
	policy := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Sid":%q,"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%s:root"},"Action":"kms:*","Resource":"*"}]}`,
		"SID", rig.Account)
	policy = strings.Replace(policy, "SID", sid, 1)
	encoded, err := json.Marshal(map[string]any{"KeyId": keyARN, "Policy": policy})
	if err != nil {
		t.Fatal(err)
	}
	if status, _, text := ask(t, r.HTTP(), "POST", "/", "PutKeyPolicy", agent, string(encoded)); status != 200 {
		t.Fatalf("PutKeyPolicy: %.300s", text)
	}
	_, granted, text := ask(t, r.HTTP(), "POST", "/", "CreateGrant", agent, fmt.Sprintf(`{"KeyId":%q,"GranteePrincipal":"arn:aws:iam::%s:root","Operations":["Encrypt"%s]}`,
		keyARN, rig.Account, strings.Repeat(`,"Encrypt"`, 10_500)))
	grantID, _ := granted["GrantId"].(string)
	if grantID == "" {
		t.Fatalf("CreateGrant: %.300s", text)
	}
	for _, c := range []struct {
		name, parameter string
		cut             string // the member that is too long for a record
		response        func(map[string]any) bool
	}{
		{"CreateKey", "", "", func(e map[string]any) bool {
			m, _ := e["keyMetadata"].(map[string]any)
			return m["arn"] == keyARN && m["aWSAccountId"] == rig.Account
		}},
		{"PutKeyPolicy", "keyId", "", func(e map[string]any) bool { return e["keyId"] == keyARN }},
		{"CreateGrant", "granteePrincipal", "operations", func(e map[string]any) bool { return e["grantId"] == grantID && e["keyId"] == keyARN }},
	} {
		found := recordsNamed(t, r, c.name)
		if len(found) != 1 {
			t.Errorf("%s: %d records", c.name, len(found))
			continue
		}
		record := found[0]
		if c.parameter != "" && record.RequestParameters[c.parameter] == nil || record.ErrorCode != "" || !c.response(record.ResponseElements) || record.AdditionalEventData.DatabaseSequence == 0 {
			t.Errorf("%s is recorded as %.2000v", c.name, record)
		}
		if c.cut != "" {
			mark, _ := record.RequestParameters[c.cut].(map[string]any)
			if n, _ := mark["length"].(float64); n < 100_000 || len(fmt.Sprint(mark["sha256"])) != 64 {
				t.Errorf("%s: %s is %.200v", c.name, c.cut, record.RequestParameters[c.cut])
			}
		}
		if len(record.UserAgent) > 1<<10 || !strings.Contains(record.UserAgent, "[3000 bytes, SHA-256 ") {
			t.Errorf("%s: a userAgent of %d bytes", c.name, len(record.UserAgent))
		}
	}
	context := fmt.Sprintf(`{"KeyId":%q,"Plaintext":"eA==","EncryptionContext":{"a":%q}}`, keyARN, strings.Repeat("x", 8191))
	if status, _, text := ask(t, r.HTTP(), "POST", "/", "Encrypt", "", context); status != 200 {
		t.Errorf("a context of 8,192 characters: %s", text)
	}
	context = strings.Replace(context, `{"a":`, `{"ab":`, 1)
	if status, answer, text := ask(t, r.HTTP(), "POST", "/", "Encrypt", "", context); status != 400 || answer["__type"] != "ValidationException" {
		t.Errorf("a context of 8,193 characters: %s", text)
	}
}

// TestOperatorCallsAreRecorded: what is asked of the endpoints for operators is
// recorded like a call, also if it is refused.
func TestOperatorCallsAreRecorded(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true, Tables: "[audit]\nrefusal_burst = 20\n"})
	stranger := r.HTTPAs(t, rig.User{UID: 61030, GID: 61030})
	for _, c := range []struct {
		method, path, name, body string
		parameters               map[string]any // of root's call; nil: it has no record
		readOnly                 bool
	}{
		{"GET", "/status", "GetStatus", "", nil, true},
		{"GET", "/metrics", "GetMetrics", "", nil, true},
		{"POST", "/confirm-clock", "ConfirmClock", "", map[string]any{}, false},
		{"POST", "/accept-state", "AcceptState", `{"root":""}`, map[string]any{"root": ""}, true},
		{"POST", "/recover", "RecoverKeys", `{"adopt":false,"keys":["a"]}`, map[string]any{"adopt": false}, true},
		{"POST", "/policy/explain", "ExplainPolicy", `{"as":"root","action":"kms:CreateKey"}`, map[string]any{"action": "kms:CreateKey"}, true},
		{"POST", "/policy/who", "ListAllowedPrincipals", `{"action":"kms:CreateKey"}`, map[string]any{"action": "kms:CreateKey"}, true},
		{"POST", "/policy/check", "CheckPolicy", `{"key":"alias/none","policy":"{}"}`, map[string]any{"key": "alias/none"}, true},
	} {
		if status, _, text := ask(t, stranger, c.method, c.path, "", "curl", c.body); status != http.StatusForbidden {
			t.Errorf("a stranger gets %d %s from %s", status, text, c.path)
		}
		refused := recordsNamed(t, r, c.name)
		if len(refused) != 1 || refused[0].ErrorCode != "AccessDenied" || refused[0].EventSource != "cmkd" || refused[0].UserIdentity.Type != "IAMUser" ||
			refused[0].AdditionalEventData.Peer.UID != 61030 || refused[0].UserAgent != "curl" || refused[0].RequestID == "" {
			t.Errorf("%s refused is recorded as %+v", c.name, refused)
		}
		ask(t, r.HTTP(), c.method, c.path, "", "curl", c.body)
		served := recordsNamed(t, r, c.name)[len(refused):]
		if c.parameters == nil {
			if len(served) > 0 {
				t.Errorf("%s is recorded: %+v", c.name, served)
			}
			continue
		}
		if len(served) != 1 || served[0].UserIdentity.Type != "Root" || served[0].ReadOnly != c.readOnly {
			t.Errorf("%s is recorded as %+v", c.name, served)
			continue
		}
		for name, want := range c.parameters {
			if served[0].RequestParameters[name] != want {
				t.Errorf("%s: %s is %v, want %v", c.name, name, served[0].RequestParameters[name], want)
			}
		}
	}
	if status, _, _ := ask(t, stranger, "POST", "/policy/key", "", "", `{"admins":[],"users":[]}`); status == http.StatusForbidden {
		t.Error("a stranger cannot ask for a key policy")
	}
	if len(recordsNamed(t, r, "MakeKeyPolicy")) != 1 {
		t.Error("MakeKeyPolicy is not recorded")
	}
}

// TestRowsHold: what the table of endpoints says of who may call them, and of the
// audit trail, is what happens, for each row.
func TestRowsHold(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true, Tables: "[audit]\nrefusal_burst = 50\n"})
	stranger := r.HTTPAs(t, rig.User{UID: 61033, GID: 61033})
	for _, row := range rows.New(rows.Config{}).Rows() {
		status, _, text := ask(t, stranger, row.Method, row.Path, "", "", "{}")
		if refused := status == http.StatusForbidden; refused != (row.Who != rows.Anyone) {
			t.Errorf("%s is for %s: a stranger gets %d %s", row.Path, row.Who, status, text)
		}
		of := recordsNamed(t, r, row.Name)
		if want := map[rows.Recorded]int{rows.Always: 1, rows.Refusals: 1}[row.Recorded]; len(of) != want {
			t.Errorf("%s, a stranger's: %d records, want %d", row.Path, len(of), want)
		}
		if status, _, text := ask(t, r.HTTP(), row.Method, row.Path, "", "", "{}"); status == http.StatusForbidden {
			t.Errorf("%s: root gets %d %s", row.Path, status, text)
		}
		served := recordsNamed(t, r, row.Name)[len(of):]
		if want := map[rows.Recorded]int{rows.Always: 1}[row.Recorded]; len(served) != want {
			t.Errorf("%s, root's: %d records, want %d", row.Path, len(served), want)
		}
		for _, record := range served {
			if looks := row.Looks || row.Path == operatorapi.AcceptState.Path || row.Path == operatorapi.Recover.Path; record.ReadOnly != looks && record.RequestParameters != nil {
				t.Errorf("%s is recorded as read-only: %v", row.Path, record.ReadOnly)
			}
		}
	}
}

// TestRefusalsAreBounded: a stranger fills the trail with little, and what is
// left out is counted.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	const burst, calls = 20, 400
	r := rig.New(t, rig.Config{World: true, Tables: "[audit]\nrefusal_burst = 20\nrefusals_per_user = 0.001\n"})
	stranger := r.HTTPAs(t, rig.User{UID: 61031, GID: 61031})
	words := strings.Repeat("stranger", 4_000)
	began := time.Now()
	for i := range calls {
		if i%2 == 0 {
			ask(t, stranger, "POST", "/", "CreateKey", words[:4000], `{"Description":"`+words[:8000]+`","Policy":"`+words+`"}`)
		} else if status, _, _ := ask(t, stranger, "POST", "/confirm-clock", "", words[:4000], ""); status != http.StatusForbidden {
			t.Fatalf("a stranger confirms the clock: %d", status)
		}
	}
	if err := r.Daemon.RunJobs(t.Context()); err != nil {
		t.Error(err)
	}
	records := append(recordsNamed(t, r, "CreateKey"), recordsNamed(t, r, "ConfirmClock")...)
	for _, record := range records {
		if record.size > 3<<10 {
			t.Errorf("a refusal of %d bytes", record.size)
		}
	}
	counted := 0.0
	for _, record := range recordsNamed(t, r, "RefusedCalls") {
		n, _ := record.AdditionalEventData.Details["calls"].(float64)
		counted += n
	}
	if len(records) < burst || len(records) > burst+2 || len(records)+int(counted) != calls {
		t.Errorf("of %d calls %d have a record and %v are counted", calls, len(records), counted)
	}
	// 200 of those that were only counted are answered at once, then 100 a second.
	if took := time.Since(began); took < time.Second {
		t.Errorf("%d refusals took %v: their connection is not slowed down", calls, took)
	}
}

// TestQuestionsOfEverybodyAreSlowedDown: what leaves no record and costs nothing
// but the processor does not keep it busy.
func TestQuestionsOfEverybodyAreSlowedDown(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true})
	stranger := r.HTTPAs(t, rig.User{UID: 61032, GID: 61032})
	began := time.Now()
	for range 350 {
		if status, _, text := ask(t, stranger, "GET", "/recipient", "", "", ""); status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("350 questions took %v", took)
	}
}

// TestUncommittedChange: what was recorded and then not committed, because the
// daemon was killed between the two, is taken back at the next start, once.
func TestUncommittedChange(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{Process: true})
	if status, _, text := ask(t, r.HTTP(), "POST", "/", "CreateKey", "", `{}`); status != 200 {
		t.Fatal(text)
	}
	made := recordsNamed(t, r, "CreateKey")
	r.Kill()
	trail, err := audit.Open(audit.Config{Dir: filepath.Join(r.Dir, "s", "audit")})
	if err != nil {
		t.Fatal(err)
	}
	lost := &event.Record{EventName: "DisableKey", RequestID: "lost"}
	lost.AdditionalEventData.DatabaseSequence = made[0].AdditionalEventData.DatabaseSequence + 1000
	if err := trail.AppendBefore(t.Context(), lost, audit.Room{}); err != nil {
		t.Fatal(err)
	}
	if err := trail.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r.Start(t)
		taken := recordsNamed(t, r, "ChangeNotCommitted")
		if len(taken) != 1 || taken[0].ServiceEventDetails["requestID"] != "lost" || taken[0].ServiceEventDetails["eventName"] != "DisableKey" ||
			taken[0].AdditionalEventData.Details["notCommitted"] != taken[0].ServiceEventDetails["eventID"] {
			t.Errorf("%+v", taken)
		}
		if err := r.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	r.Start(t)
}
