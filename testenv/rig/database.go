package rig

import (
	"database/sql"
	"encoding/json"
	"net/http"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite"

	"cmkd/socket/operatorapi"
)

// Database is the path of the rig's database.
func Database(r *Rig) string { return filepath.Join(r.Dir, "s", "cmkd.db") }

// Tamper runs statements on the database. A daemon that runs may be
// writing to it.
func Tamper(t *testing.T, r *Rig, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", Database(r)+"?_pragma=busy_timeout(30000)")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// AcceptState asks with a root, "" to look.
func AcceptState(t *testing.T, r *Rig, root string) (status int, answer operatorapi.Acceptance) {
	t.Helper()
	body, err := json.Marshal(&operatorapi.AcceptRequest{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	status, text := r.Ask(t, http.MethodPost, operatorapi.AcceptState.Path, string(body))
	if status == http.StatusOK {
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			t.Fatal(err)
		}
	}
	return status, answer
}

// Accept accepts whatever is there.
func Accept(t *testing.T, r *Rig) {
	t.Helper()
	_, m := AcceptState(t, r, "")
	if m.Mismatch == nil {
		t.Fatal("the database verifies")
	}
	if status, answer := AcceptState(t, r, m.Mismatch.Root); !answer.Accepted {
		t.Fatalf("not accepted: status %d\n%s", status, r.Log())
	}
}
