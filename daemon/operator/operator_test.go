package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"cmkd/daemon/journal"
	"cmkd/socket/operatorapi"
)

// TestRows is the table once more: who may call an endpoint, and what the audit trail
// gets of it, does not change by accident.
func TestRows(t *testing.T) {
	t.Parallel()
	const want = `
		GET  /status         GetStatus              admins, auditors, operators, monitors refusals looks
		GET  /metrics        GetMetrics             admins, auditors, operators, monitors refusals looks
		GET  /recipient      GetRecipientAlgorithms anyone never    looks
		POST /confirm-clock  ConfirmClock           admins always
		POST /accept-state   AcceptState            admins always
		POST /recover        RecoverKeys            admins, operators always   long
		POST /backup         BackUpDatabase         admins, operators always   long
		POST /backup/verify  VerifyBackup           admins, auditors, operators always   looks
		POST /reload         ReloadConfiguration    admins, operators always   long
		POST /audit/verify   VerifyAuditTrail       admins, auditors always   looks long
		POST /audit/read     ReadAuditTrail         admins, auditors always   looks long
		POST /audit/prune    PruneAuditTrail        admins always   long
		POST /policy/explain ExplainPolicy          admins, auditors always   looks
		POST /policy/who     ListAllowedPrincipals  admins, auditors always   looks
		POST /policy/check   CheckPolicy            admins, auditors always   looks
		POST /policy/key     MakeKeyPolicy          anyone always   looks`
	rows := New(Config{}).Rows()
	lines := strings.Split(strings.TrimSpace(want), "\n")
	if len(rows) != len(lines) {
		t.Errorf("%d rows, want %d", len(rows), len(lines))
	}
	for i, r := range rows[:min(len(rows), len(lines))] {
		got := []string{r.Method, r.Path, r.Name, r.Who.String(), string(r.Recorded)}
		if r.Looks {
			got = append(got, "looks")
		}
		if r.Long {
			got = append(got, "long")
		}
		if line := strings.Join(strings.Fields(lines[i]), " "); strings.Join(got, " ") != line {
			t.Errorf("row %d: %q, want %q", i+1, strings.Join(got, " "), line)
		}
		if r.Recorded == Always && r.MaxBody == 0 || r.Recorded != Always && !r.Looks {
			t.Errorf("%s: a request has no limit, or a change no record", r.Path)
		}
	}
}

// TestWho: an endpoint that says nothing of who may call it is for admins.
func TestWho(t *testing.T) {
	t.Parallel()
	callers := map[string]*journal.Caller{
		"admin": {Admin: true}, "user": {}, "monitor": {Duties: journal.Monitoring}, "auditor": {Duties: journal.Auditing},
		"operator": {Duties: journal.Operating}, "auditor and operator": {Duties: journal.Auditing | journal.Operating},
	}
	for who, want := range map[Who]string{
		Row{}.Who: "admin", Admins: "admin", Anyone: "admin auditor auditor and operator monitor operator user",
		Auditors: "admin auditor auditor and operator", Monitors | Operators: "admin auditor and operator monitor operator",
	} {
		var got []string
		for name, c := range callers {
			if who.includes(c) {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%s: %s, want %s", who, text, want)
		}
	}
}

// everybody is known by any name.
type everybody struct{ Identities }

func (everybody) Named(text string) (*journal.Caller, error) { return &journal.Caller{}, nil }

// TestQuestionsStopWithTheClient: what nobody waits for any more is not looked
// up.
func TestQuestionsStopWithTheClient(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	if list, err := arns(ctx, everybody{}, []string{"root"}); err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	cancel()
	if _, err := arns(ctx, everybody{}, []string{"root"}); !errors.Is(err, context.Canceled) {
		t.Errorf("names were looked up for nobody: %v", err)
	}
}

// TestPolicyCheckIsBounded: callers choose the keys of their encryption contexts,
// so there is no end of kinds of calls.
func TestPolicyCheckIsBounded(t *testing.T) {
	t.Parallel()
	check := &policyCheck{found: map[string]*operatorapi.RefusedCall{}}
	for i := range maxKinds + 5 {
		for range 2 {
			check.add(&operatorapi.RefusedCall{ContextKeys: []string{fmt.Sprint(i)}, Calls: 1})
		}
	}
	if len(check.found) != maxKinds || check.out.Others != 2*5 || check.found["\x00\x00\x000"].Calls != 2 {
		t.Errorf("%d kinds, %d others", len(check.found), check.out.Others)
	}
}
