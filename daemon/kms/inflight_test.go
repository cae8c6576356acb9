package kms_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmkd/backends"
	"cmkd/daemon/audit"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/kms"
	"cmkd/daemon/policy"
	"cmkd/daemon/store/storetest"
	"cmkd/socket/kmsapi"
	"cmkd/testenv/memory"
)

// gated is a token that makes keys only once it is let.
type gated struct {
	*memory.Router
	entered, let chan struct{}
}

func (g *gated) Route(name string, spec backends.KeySpec) (keyring.Backend, backends.SpecInfo, bool) {
	_, info, ok := g.Router.Route(name, spec)
	return g, info, ok
}

func (g *gated) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	g.entered <- struct{}{}
	<-g.let
	return g.Router.CreateKey(ctx, in)
}

// TestEndCalls: a call that the end of the daemon cuts off has one record, and
// changes nothing from then on, however long its token takes.
func TestEndCalls(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := storetest.NewStore(t)
	trail, err := audit.Open(audit.Config{Dir: filepath.Join(dir, "audit")})
	if err != nil {
		t.Fatal(err)
	}
	g := &gated{&memory.Router{Token: memory.New()}, make(chan struct{}), make(chan struct{})}
	s := kms.New(kms.Config{
		Account: account, Region: "us-east-1", Token: "main", Store: db, Trail: trail, Router: g, Logger: slog.New(slog.DiscardHandler),
	})
	everything, err := policy.Parse([]byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`), policy.IdentityPolicy)
	if err != nil {
		t.Fatal(err)
	}
	caller := &journal.Caller{
		Principal: policy.Principal{Type: policy.Root, ARN: "arn:aws:iam::" + account + ":root", AccountID: account},
		Policies:  []*policy.Document{everything}, Admin: true,
	}
	answered := make(chan *kmsapi.Answer)
	go func() {
		answered <- s.Dispatch(context.Background(), caller, &kmsapi.Request{Operation: "CreateKey", Body: []byte(`{"Description":"cut"}`), RequestID: "slow"})
	}()
	<-g.entered
	ended, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond) // the drain timeout is over
	defer cancel()
	if err := s.EndCalls(ended); err != nil {
		t.Error(err)
	}
	close(g.let)
	if a := <-answered; a.Status != 500 {
		t.Errorf("answered %d %s", a.Status, a.Body)
	}
	if a := s.Dispatch(t.Context(), caller, &kmsapi.Request{Operation: "ListKeys", Body: []byte(`{}`), RequestID: "late"}); a.Status != 500 {
		t.Errorf("a call after the end: %d %s", a.Status, a.Body)
	}
	for k := range db.View().AllKeys() {
		t.Errorf("key %s was made", k.ID)
	}
	if err := trail.Close(); err != nil {
		t.Error(err)
	}
	var lines []string
	if err := audit.Scan(filepath.Join(dir, "audit"), func(line []byte) error {
		lines = append(lines, string(line))
		return nil
	}); err != nil {
		t.Error(err)
	}
	if len(lines) != 1 || !strings.Contains(lines[0], `"requestID":"slow"`) || !strings.Contains(lines[0], `"errorCode":"KMSInternalException"`) ||
		!strings.Contains(lines[0], `"requestParameters":{"description":"cut"}`) {
		t.Errorf("the trail has %d records: %s", len(lines), lines)
	}
}
