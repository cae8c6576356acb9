package kms_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cmkd/daemon/audit"
	"cmkd/daemon/audit/event"
	"cmkd/daemon/journal"
	"cmkd/daemon/kms"
	"cmkd/daemon/policy"
	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
	"cmkd/socket/kmsapi"
	"cmkd/testenv/memory"
)

// scene is a service with a real trail and database, in which anything may be
// asked.
type scene struct {
	*mathrand.Rand
	t       *testing.T
	dir     string
	disk    *storetest.Disk
	db      *store.Store // on disk
	trail   *audit.Log
	service *kms.Service
	now     time.Time
	callers []*journal.Caller
	// names are what requests may name: keys, aliases, grants, tokens of grants
	// and of imports, ciphertexts, custom key stores.
	names map[string][]string
	read  uint64 // the last record that was looked at
}

const otherRegion = "eu-central-1"

// TestChangedMeansRecorded makes random and hostile requests of every operation and
// of what the endpoints for operators change,
// by callers of all kinds, also while the trail is broken or its backlog is
// full, and compares the state before and after each: what has changed is on
// record, exactly once and by its name, and what is recorded has changed.
// `make long` makes 10,000.
func TestChangedMeansRecorded(t *testing.T) {
	t.Parallel()
	requests, err := strconv.Atoi(cmp.Or(os.Getenv("CMKD_REQUESTS"), "600"))
	if err != nil {
		t.Fatalf("CMKD_REQUESTS: %v", err)
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("CMKD_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("CMKD_SEED: %v", err)
		}
	}
	t.Logf("CMKD_SEED=%d", seed)
	s := newScene(t, seed)
	for range 20 { // something to ask about
		answer := s.service.Dispatch(t.Context(), s.callers[0], &kmsapi.Request{Operation: "CreateKey", Body: s.body(operationNamed(t, "CreateKey"))})
		s.learn("CreateKey", answer)
	}
	changes, refusals, unrecorded := map[string]int{}, 0, 0
	for n := range requests {
		op := kmsapi.Operations[n%len(kmsapi.Operations)] // each as often
		if s.IntN(3) == 0 {                               // what makes the others possible
			op = operationNamed(t, s.pick("CreateKey", "CreateGrant", "CreateGrant", "CancelKeyDeletion", "EnableKey", "CreateCustomKeyStore"))
		}
		s.now = s.now.Add(time.Minute)
		r := &kmsapi.Request{
			Operation: op.Name, Body: s.body(op), RequestID: fmt.Sprintf("request-%d", n), UserAgent: s.hostile(),
			Region: s.rarely("nowhere", s.pick("", "us-east-1", "us-east-1", otherRegion)),
		}
		caller := s.callers[s.IntN(len(s.callers))]
		trouble := s.rarely("backlog", s.rarely("broken", ""))
		call := s.service.Dispatch
		if s.IntN(8) == 0 { // what operators ask for
			op.Name = s.pick(operatorActions...)
			r.Operation, call = op.Name, s.operate
		}
		before := s.state()
		answer := s.underTrouble(trouble, func() *kmsapi.Answer { return call(t.Context(), caller, r) })
		s.learn(op.Name, answer)
		changed := difference(before, s.state())
		records := s.recordsOf(r.RequestID)
		what := fmt.Sprintf("%s by %s with %q: %d %.300s changed %v", op.Name, caller.Principal.ARN, trouble, answer.Status, answer.Body, changed)
		s.judge(what, op.Name, caller, answer, changed, records)
		switch {
		case len(changed) > 0:
			changes[op.Name]++
		case len(records) == 0:
			unrecorded++
		case answer.Status != 200:
			refusals++
		}
	}
	t.Logf("%d requests: %d refused, %d neither recorded nor served, changes %v", requests, refusals, unrecorded, changes)
	if len(changes) < 6 {
		t.Errorf("only %d operations changed anything: the requests are not what they should be", len(changes))
	}
	if report, err := audit.VerifyDir(filepath.Join(s.dir, "audit"), audit.VerifyOptions{}); err != nil || report.Records == 0 {
		t.Errorf("the trail: %+v, %v", report, err)
	}
}

// operatorActions are what the endpoints for operators do with the database.
var operatorActions = []string{"ConfirmClock", "AcceptState", "Recover", "ReloadConfiguration"}

// operate is what an endpoint for operators does, which package daemon serves.
func (s *scene) operate(ctx context.Context, caller *journal.Caller, r *kmsapi.Request) *kmsapi.Answer {
	err := s.service.Operate(ctx, caller, r, func(c *journal.Call) (err error) {
		if !caller.Admin {
			return kmsapi.Errorf(kmsapi.CodeAccessDeniedException, "only administrators may do this")
		}
		s.service.Describe(c, false, []byte(`{"note":"operator"}`))
		switch r.Operation {
		case "ConfirmClock":
			_, err = s.service.ConfirmClock(ctx, c)
		case "AcceptState":
			err = s.service.AcceptState(ctx, c, strings.Repeat("ab", 32))
		case "Recover":
			_, err = s.service.Recover(ctx, c, func(string) bool { return true })
		default:
			err = s.service.Decide(ctx, c, func() error { return nil })
		}
		return err
	})
	switch e := (*kmsapi.Error)(nil); {
	case err == nil:
		return &kmsapi.Answer{Status: 200}
	case errors.As(err, &e):
		return kmsapi.AnswerError(e)
	case errors.Is(err, journal.ErrNoTrail):
		return kmsapi.AnswerError(kmsapi.Errorf(kmsapi.CodeKMSInternalException, "The audit trail cannot be written."))
	default:
		return kmsapi.AnswerError(kmsapi.Errorf(kmsapi.CodeKMSInternalException, "%v", err))
	}
}

// judge compares one answer with the state and the trail.
func (s *scene) judge(what, operation string, caller *journal.Caller, answer *kmsapi.Answer, changed []string, records []record) {
	s.t.Helper()
	var done []record
	for _, r := range records {
		if r.ErrorCode == "" {
			done = append(done, r)
		}
	}
	switch {
	case len(done) > 1 || len(records) > 1:
		s.t.Errorf("%s: %d records: %v", what, len(records), records)
	case len(changed) > 0 && len(done) != 1:
		s.t.Errorf("%s: no record of the change", what)
	case answer.Status == 200 && len(done) != 1:
		s.t.Errorf("%s: no record of the answer", what)
	case answer.Status != 200 && len(changed) > 0:
		s.t.Errorf("%s: it was refused", what)
	case answer.Status != 200 && len(done) > 0 && !done[0].ReadOnly: // the answer to a read is withheld
		s.t.Errorf("%s: recorded as done: %v", what, done)
	case answer.Status != 200 && len(records) == 0 && !strings.Contains(string(answer.Body), "audit trail"):
		s.t.Errorf("%s: no record of the refusal", what)
	}
	for _, r := range records {
		if r.EventName != operation || len(r.line) > event.MaxRecord {
			s.t.Errorf("%s: recorded as %s, in %d bytes", what, r.EventName, len(r.line))
		}
		if r.ErrorCode != "" && r.AdditionalEventData.Decision != "Allow" && !caller.Admin && len(r.line) > 5<<10 {
			s.t.Errorf("%s: a refusal of %d bytes", what, len(r.line))
		}
	}
	for _, name := range changed {
		if len(done) == 1 && !strings.Contains(done[0].line, name) {
			s.t.Errorf("%s: the record does not name %s: %s", what, name, done[0].line)
		}
	}
}

func operationNamed(t *testing.T, name string) kmsapi.Operation {
	i := slices.IndexFunc(kmsapi.Operations, func(op kmsapi.Operation) bool { return op.Name == name })
	if i < 0 {
		t.Fatalf("no operation %s", name)
	}
	return kmsapi.Operations[i]
}

func newScene(t *testing.T, seed uint64) *scene {
	s := &scene{
		Rand: mathrand.New(mathrand.NewPCG(seed, 0)), t: t, dir: t.TempDir(), disk: storetest.NewDisk(),
		now: time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC), names: map[string][]string{},
	}
	var err error
	s.db = storetest.Open(t, s.disk)
	if s.trail, err = audit.Open(audit.Config{Dir: filepath.Join(s.dir, "audit"), Backlog: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.trail.Close(); err != nil {
			t.Error(err)
		}
	})
	s.service = kms.New(kms.Config{
		Account: account, Region: "us-east-1", Regions: []string{otherRegion}, Token: "main", Store: s.db, Trail: s.trail,
		Clusters: map[string]string{"cluster-234567234567": "second"}, PlaintextDataKeys: true,
		Router: &memory.Router{Token: memory.New()}, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return s.now },
		Limits: kms.Limits{RefusalRate: 1e9, RefusalBurst: 1e9, GrantsPerKey: 20},
	})
	everything, err := policy.Parse([]byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`), policy.IdentityPolicy)
	if err != nil {
		t.Fatal(err)
	}
	root := policy.Principal{Type: policy.Root, ARN: "arn:aws:iam::" + account + ":root", AccountID: account}
	user := policy.Principal{Type: policy.User, ARN: "arn:aws:iam::" + account + ":user/app", AccountID: account, UserName: "app"}
	stranger := policy.Principal{Type: policy.User, ARN: "arn:aws:iam::" + account + ":user/stranger", AccountID: account, UserName: "stranger"}
	all := []*policy.Document{everything}
	s.callers = []*journal.Caller{
		{Principal: root, Policies: all, Admin: true},
		{Principal: root, Policies: all, Admin: true},
		{Principal: user, Policies: all, UID: 1000},
		{Principal: stranger, UID: 1001},
	}
	return s
}

// underTrouble makes a call while something is the matter with the trail.
func (s *scene) underTrouble(trouble string, call func() *kmsapi.Answer) *kmsapi.Answer {
	switch trouble {
	case "backlog": // all of it, or what is not for the privileged
		privileged := s.IntN(2) == 0
		for {
			room, err := s.trail.Reserve(privileged)
			if err != nil {
				break
			}
			defer s.trail.Release(room)
		}
	case "broken":
		segments, err := filepath.Glob(filepath.Join(s.dir, "audit", "*.jsonl"))
		if err != nil || len(segments) == 0 {
			s.t.Fatal(segments, err)
		}
		live := slices.Max(segments)
		if err := os.Rename(live, live+".away"); err != nil {
			s.t.Fatal(err)
		}
		defer func() {
			if err := os.Rename(live+".away", live); err != nil {
				s.t.Fatal(err)
			}
			if err := s.trail.Reopen(); err != nil {
				s.t.Fatal(err)
			}
		}()
	}
	return call()
}

// record is one of the trail.
type record struct {
	line                                     string
	EventName, ErrorCode, RequestID, EventID string
	AdditionalEventData                      struct{ Decision string }
	ReadOnly                                 bool
}

// recordsOf are the records of a request among those that are new.
func (s *scene) recordsOf(id string) []record {
	var found []record
	err := s.trail.After(s.read, func(line []byte) error {
		if !bytes.Contains(line, []byte(`"requestID":"`+id+`"`)) {
			return nil
		}
		r := record{line: string(line)}
		if err := json.Unmarshal(line, &r); err != nil {
			return err
		}
		found = append(found, r)
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.read, _ = s.trail.Head()
	return found
}
