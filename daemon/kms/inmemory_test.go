package kms_test

import (
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"cmkd/daemon/journal"
	"cmkd/daemon/kms"
	"cmkd/daemon/policy"
	"cmkd/daemon/store/storetest"
	"cmkd/socket/kmsapi"
	"cmkd/testenv/memory"
)

// inMemory is a service on a token in memory, and an administrator who calls it.
type inMemory struct {
	t       *testing.T
	token   *memory.Token
	disk    *storetest.Disk // of the store
	cfg     kms.Config
	service *kms.Service
	caller  *journal.Caller
	region  string        // of the calls; "" means us-east-1
	later   time.Duration // how far the clock is ahead
}

func newInMemory(t *testing.T) *inMemory { return newInMemoryWith(t, func(*kms.Config) {}) }

// newInMemoryWith is newInMemory with a configuration that change has changed.
func newInMemoryWith(t *testing.T, change func(*kms.Config)) *inMemory {
	t.Helper()
	administrator, err := policy.Parse([]byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`), policy.IdentityPolicy)
	if err != nil {
		t.Fatal(err)
	}
	disk := storetest.NewDisk()
	db := storetest.Open(t, disk)
	s := &inMemory{t: t, disk: disk, token: memory.New(), caller: &journal.Caller{
		Principal: policy.Principal{Type: policy.Root, ARN: "arn:aws:iam::" + account + ":root", AccountID: account},
		Policies:  []*policy.Document{administrator}, Admin: true,
	}}
	cfg := kms.Config{
		Account: account, Region: "us-east-1", Regions: []string{"us-east-1", "eu-west-1"}, Token: "main", Store: db, Trail: unrecorded{},
		Router: &memory.Router{Token: s.token}, Logger: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return time.Now().Add(s.later) },
	}
	change(&cfg)
	s.cfg, s.service = cfg, kms.New(cfg)
	return s
}

// ask makes a call and returns the code of its answer, "" for success.
func (s *inMemory) ask(operation string, in map[string]any) (code string, out map[string]any) {
	s.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		s.t.Fatal(err)
	}
	answer := s.service.Dispatch(s.t.Context(), s.caller, &kmsapi.Request{Operation: operation, Body: body, RequestID: "r", Region: s.region})
	if len(answer.Body) > 0 {
		if err := json.Unmarshal(answer.Body, &out); err != nil {
			s.t.Fatalf("%s answered %q: %v", operation, answer.Body, err)
		}
	}
	code, _ = out["__type"].(string)
	if (answer.Status == 200) != (code == "") {
		s.t.Errorf("%s answered %d %s", operation, answer.Status, answer.Body)
	}
	return code, out
}

// call makes a call that must answer with the code, "" for success.
func (s *inMemory) call(code, operation string, in map[string]any) map[string]any {
	s.t.Helper()
	got, out := s.ask(operation, in)
	if got != code {
		s.t.Errorf("%s answered %q %v, want %q", operation, got, out, code)
	}
	return out
}

// newKey makes a key, symmetric if in is nil, and returns its ID.
func (s *inMemory) newKey(in map[string]any) string {
	s.t.Helper()
	if in == nil {
		in = map[string]any{}
	}
	made, _ := s.call("", "CreateKey", in)["KeyMetadata"].(map[string]any)
	id, _ := made["KeyId"].(string)
	return id
}
