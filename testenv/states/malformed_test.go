package states_test

import (
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/rig"
)

// TestMalformedRows: a database with rows that no version of the program writes
// is served for looking, with a reason that names them, and cannot be accepted.
func TestMalformedRows(t *testing.T) {
	t.Parallel()
	const short = "AAECAw==" // 4 bytes
	for _, c := range []struct{ name, change, reason string }{
		{"CKA_ID of the audit key", `UPDATE system_keys SET document = json_set(document, '$.CKAID', '` + short + `') WHERE purpose = 'audit'`, "CKA_ID has 4 bytes"},
		{"CKA_ID of the state key", `UPDATE system_keys SET document = json_set(document, '$.CKAID', '` + short + `') WHERE purpose = 'state'`, "CKA_ID has 4 bytes"},
		{"CKA_ID of a key", `UPDATE versions SET cka_id = x'00010203', document = json_set(document, '$.CKAID', '` + short + `')`, "CKA_ID has 4 bytes"},
		{"CKA_ID of an intent", `INSERT INTO intents VALUES (x'00010203', '{"CKAID":"` + short + `","Action":"create","KeyID":"x","Version":1,"Token":"main","Spec":"AES_256","Usage":"X","Created":"2026-01-01T00:00:00Z"}')`, "CKA_ID has 4 bytes"},
		{"state", `UPDATE keys SET document = json_set(document, '$.State', 'Nope')`, `its state is "Nope"`},
		{"count", `UPDATE versions SET document = json_set(document, '$.Encryptions', 9223372036854775807)`, "count of encryptions"},
		{"days", `UPDATE keys SET document = json_set(document, '$.RotationPeriodDays', 9223372036854775807)`, "number of days"},
		{"version without a key", `DELETE FROM keys`, "rows were changed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := rig.New(t, rig.Config{})
			id := rig.NewKey(t, r.Client(""), &kms.CreateKeyInput{})
			if err := r.Stop(); err != nil {
				t.Fatal(err)
			}
			db, err := sql.Open("sqlite", filepath.Join(r.Dir, "s", "cmkd.db"))
			if err == nil {
				_, err = db.ExecContext(t.Context(), c.change)
			}
			if err := errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
			r.Start(t)
			says(t, r, "degraded", "stateMismatch", "cmkd_database_verified")
			shown, code := post(t, r, "/accept-state", `{}`)
			if code != 200 || !strings.Contains(strings.ReplaceAll(shown, `\"`, `"`), c.reason) {
				t.Fatalf("accept-state shows %d %s", code, shown)
			}
			if err := rig.EncryptWith(t, r.Client(""), id); err == nil {
				t.Error("Encrypt in the name of such rows")
			}
			if err := r.Daemon.RunJobs(t.Context()); err != nil {
				t.Error(err)
			}
			_, root, _ := strings.Cut(shown, `"root": "`)
			root, _, _ = strings.Cut(root, `"`)
			accepted, code := post(t, r, "/accept-state", `{"root":"`+root+`"}`)
			if refused := code == 409 && strings.Contains(accepted, "cmkd does not write"); refused != (c.reason != "rows were changed") {
				t.Errorf("accept-state answers %d %s", code, accepted)
			}
			if c.reason != "rows were changed" {
				return
			}
			if found, code := post(t, r, "/recover", `{}`); code != 200 {
				t.Errorf("recover answers %d %s", code, found)
			}
		})
	}
}
