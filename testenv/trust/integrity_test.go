package trust

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	_ "modernc.org/sqlite" // the driver that somebody with the file would use

	"cmkd/socket/operatorapi"
	"cmkd/testenv/rig"
)

// copyDatabase copies the files of the database from one folder to another.
func copyDatabase(t *testing.T, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		content, err := os.ReadFile(filepath.Join(from, "cmkd.db"+suffix))
		target := filepath.Join(to, "cmkd.db"+suffix)
		switch {
		case errors.Is(err, os.ErrNotExist):
			if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		case err != nil:
			t.Fatal(err)
		default:
			if err := os.WriteFile(target, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// life is the ordinary life of a database, whose rows the tamperings change.
// It returns the IDs of two keys.
func life(t *testing.T, r *rig.Rig) (a, b string) {
	t.Helper()
	c, ctx := r.Client(""), t.Context()
	a, b = rig.NewKey(t, c, &kms.CreateKeyInput{}), rig.NewKey(t, c, &kms.CreateKeyInput{})
	_, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/a"), TargetKeyId: &a})
	_, err2 := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/b"), TargetKeyId: &b})
	_, err3 := c.CreateGrant(ctx, &kms.CreateGrantInput{
		KeyId: &a, GranteePrincipal: aws.String("arn:aws:iam::" + rig.Account + ":root"), Operations: []types.GrantOperation{types.GrantOperationEncrypt},
	})
	_, err4 := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &a})
	_, err5 := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &a, Plaintext: []byte("text")})
	if err := errors.Join(err, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// TestTampering changes the database of a stopped daemon. Each time the daemon
// starts, shows what was done, and serves neither cryptography nor changes
// until it is accepted.
func TestTampering(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	a, b := life(t, r)
	old, disabled := t.TempDir(), t.TempDir()
	stop := func() {
		t.Helper()
		if err := r.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	// The file as it is while the daemon runs, and one version of a row.
	copyDatabase(t, filepath.Dir(rig.Database(r)), old)
	if _, err := r.Client("").DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &b}); err != nil {
		t.Fatal(err)
	}
	stop()
	copyDatabase(t, filepath.Dir(rig.Database(r)), disabled)
	r.Start(t)
	if _, err := r.Client("").EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &b}); err != nil {
		t.Fatal(err)
	}
	if state := r.Status(t).State; state != "ok" {
		t.Fatalf("state %s before anything is done to the database", state)
	}
	stop()

	swap := `CREATE TABLE x AS SELECT name, key_id, document FROM aliases WHERE name LIKE 'alias/_'`
	for _, c := range []struct {
		name  string
		do    func()
		why   string   // of the mismatch
		rows  []string // that differ: change, table and a part of the row
		exact bool
	}{
		{"edit a policy", func() {
			rig.Tamper(t, r, `UPDATE keys SET document = json_set(document, '$.Policy', '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}]}') WHERE id = '`+a+`'`)
		}, "rows were changed", []string{"changed keys " + a}, true},
		{"swap two rows", func() {
			rig.Tamper(t, r, swap,
				`UPDATE aliases SET key_id = x.key_id, document = json_set(aliases.document, '$.KeyID', x.key_id) FROM x WHERE aliases.name LIKE 'alias/_' AND aliases.name <> x.name`,
				`DROP TABLE x`)
		}, "rows were changed", []string{"changed aliases alias/a", "changed aliases alias/b"}, true},
		{
			"delete a grant", func() { rig.Tamper(t, r, `DELETE FROM grants`) },
			"rows were changed",
			[]string{"missing grants " + a},
			true,
		},
		{"insert a grant", func() {
			rig.Tamper(t, r, `INSERT INTO grants (region, key_id, id, document) SELECT region, id, 'f00', json_object('Region', region, 'KeyID', id,
				'ID', 'f00', 'Grantee', 'arn:aws:iam::123456789012:user/eve', 'Issuer', 'x', 'Operations', json_array('Decrypt'), 'Created', '2026-01-01T00:00:00Z')
				FROM keys WHERE id = '`+a+`'`)
		}, "rows were changed", []string{"added grants f00"}, true},
		{"replay a row", func() {
			rig.Tamper(t, r, `ATTACH DATABASE '`+filepath.Join(disabled, "cmkd.db")+`' AS old`,
				`UPDATE keys SET document = (SELECT document FROM old.keys k WHERE k.id = keys.id) WHERE id = '`+b+`'`)
		}, "rows were changed", []string{"changed keys " + b}, true},
		{"an intent that would destroy a key", func() {
			rig.Tamper(t, r, `INSERT INTO intents (cka_id, document) SELECT x'00112233445566778899aabbccddeeff', json_object('CKAID', 'ABEiM0RVZneImaq7zN3u/w==',
				'Action', 'destroy', 'KeyID', 'k', 'Version', 1, 'Token', 'main', 'Spec', 'SYMMETRIC_DEFAULT', 'Usage', 'ENCRYPT_DECRYPT', 'Created', '2026-01-01T00:00:00Z')`)
		}, "rows were changed", []string{"added intents 00112233445566778899aabbccddeeff"}, true},
		{"edit a row and its digest", func() {
			rig.Tamper(t, r, `UPDATE keys SET document = json_set(document, '$.Description', 'eve') WHERE id = '`+a+`'`,
				`DELETE FROM row_hashes WHERE row_table = 'keys'`)
		}, "rows were changed", []string{"added keys " + a, "added keys " + b}, false},
		{"edit the head", func() {
			rig.Tamper(t, r, `UPDATE head SET document = json_set(document, '$.Sequence', 1)`)
		}, "its head was changed", nil, false},
		{"delete the head", func() { rig.Tamper(t, r, `DELETE FROM head`) }, "its head is missing", nil, false},
		{"delete head and key row", func() {
			rig.Tamper(t, r, `DELETE FROM head`, `DELETE FROM system_keys WHERE purpose = 'state'`)
		}, "its head is missing", []string{"missing system_keys state"}, false},
		{
			"restore the file as it was while the daemon ran", func() { copyDatabase(t, old, filepath.Dir(rig.Database(r))) },
			"it is an older copy", nil, false,
		},
		{
			"restore the file of the last stop", func() { copyDatabase(t, disabled, filepath.Dir(rig.Database(r))) },
			"it is an older copy", nil, false,
		},
		{"restore an older file and delete its head", func() {
			copyDatabase(t, disabled, filepath.Dir(rig.Database(r)))
			rig.Tamper(t, r, `DELETE FROM head`)
		}, "its head is missing", nil, false},
	} {
		c.do()
		r.Start(t)
		_, m := rig.AcceptState(t, r, "")
		if m.Mismatch == nil {
			t.Errorf("%s: not noticed", c.name)
			stop()
			continue
		}
		if !strings.HasPrefix(m.Mismatch.Reason, c.why) || m.Mismatch.Exact != c.exact || len(m.Mismatch.Differences) != len(c.rows) {
			t.Errorf("%s: %+v, want %q and %v", c.name, m.Mismatch, c.why, c.rows)
		}
		for i, d := range m.Mismatch.Differences {
			found := false
			for _, want := range c.rows {
				parts := strings.Fields(want)
				found = found || d.Kind == parts[0] && d.Table == parts[1] && strings.Contains(d.Row, parts[2])
			}
			if !found {
				t.Errorf("%s: difference %d is %+v, want one of %v", c.name, i, d, c.rows)
			}
		}
		refusesUnverified(t, r, a)
		rig.Accept(t, r)
		if state := r.Status(t).State; state != "ok" {
			t.Errorf("%s: state %s after the state was accepted", c.name, state)
		}
		use(t, r.Client(""), a)
		stop() // the next start finds no more than what is done next
	}
	// Without its log, the file is what the last checkpoint left in it.
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(filepath.Join(old, "cmkd.db"+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	copyDatabase(t, old, filepath.Dir(rig.Database(r)))
	r.Start(t)
	if _, m := rig.AcceptState(t, r, ""); m.Mismatch == nil || !strings.HasPrefix(m.Mismatch.Reason, "it is an older copy") {
		t.Errorf("a database without its log: %+v", m.Mismatch)
	}
	if n := strings.Count(r.Log(), "earlier ones are unknown"); n != 1 { // neither head nor key row
		t.Errorf("a key of heads was left in the token %d times, want once: the other databases name its lineage", n)
	}
	trail := r.AuditTrail(t)
	for _, event := range []string{"AdoptState", "StateMismatch", "AcceptState"} {
		if !strings.Contains(trail, `"eventName":"`+event+`"`) {
			t.Errorf("no %s in the audit trail", event)
		}
	}
	if n := strings.Count(trail, `"eventName":"AdoptState"`); n != 1 {
		t.Errorf("the database was adopted %d times, want once", n)
	}
}

// refusesUnverified looks at what a daemon does whose database does not verify.
func refusesUnverified(t *testing.T, r *rig.Rig, id string) {
	t.Helper()
	c, ctx := r.Client(""), t.Context()
	for name, call := range map[string]func(context.Context) error{
		"Encrypt": func(ctx context.Context) error {
			_, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &id, Plaintext: []byte("text")})
			return err
		},
		"GenerateRandom": func(ctx context.Context) error {
			_, err := c.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(16)})
			return err
		},
		"GetPublicKey": func(ctx context.Context) error {
			_, err := c.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &id})
			return err
		},
		"CreateKey": func(ctx context.Context) error {
			_, err := c.CreateKey(ctx, &kms.CreateKeyInput{})
			return err
		},
	} {
		if _, ok := errors.AsType[*types.KMSInvalidStateException](call(ctx)); !ok {
			t.Errorf("%s is not refused: %v", name, call(ctx))
		}
	}
	if _, err := c.ListKeys(ctx, &kms.ListKeysInput{}); err != nil {
		t.Errorf("ListKeys: %v", err)
	}
	if state := r.Status(t).State; state != "degraded" {
		t.Errorf("state %s of a database that does not verify", state)
	}
	rig.RunJobs(t, r)
	if status, _ := rig.AcceptState(t, r, strings.Repeat("0", 64)); status != http.StatusConflict {
		t.Errorf("another state than the one that is there: status %d", status)
	}
}

// tamperedWhileRunning changes the file under a daemon, tells it to reload, and returns what it finds.
func tamperedWhileRunning(t *testing.T, r *rig.Rig, statement string) operatorapi.Acceptance {
	t.Helper()
	rig.Tamper(t, r, statement)
	if err := r.Daemon.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, m := rig.AcceptState(t, r, "")
	return m
}

// TestTamperingWhileRunning changes the file under a daemon, which notices when
// it is told to reload.
func TestTamperingWhileRunning(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	a, _ := life(t, r)
	m := tamperedWhileRunning(t, r, `UPDATE keys SET document = json_set(document, '$.Description', 'eve') WHERE id = '`+a+`'`)
	if m.Mismatch == nil || len(m.Mismatch.Differences) != 1 || !m.Mismatch.Exact {
		t.Fatalf("%+v", m.Mismatch)
	}
	refusesUnverified(t, r, a)
	rig.Accept(t, r)
	use(t, r.Client(""), a)
	out, err := r.Client("").DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &a})
	if err != nil || *out.KeyMetadata.Description != "eve" {
		t.Errorf("what was accepted is not what is served: %v, %v", out, err)
	}
}

// TestMalformedWhileRunning: rows that cmkd does not write are not accepted, also if the daemon was running
// when they were written, and has not read them yet.
func TestMalformedWhileRunning(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	a, _ := life(t, r)
	m := tamperedWhileRunning(t, r, `UPDATE keys SET document = json_set(document, '$.State', 'Weird') WHERE id = '`+a+`'`)
	if m.Mismatch == nil {
		t.Fatal("the row is not noticed")
	}
	if status, answer := rig.AcceptState(t, r, m.Mismatch.Root); status != http.StatusConflict || answer.Accepted {
		t.Errorf("accepted: %d %+v", status, answer)
	}
	refusesUnverified(t, r, a)
}

// TestKilledEpoch kills the daemon while it changes, starts and ends epochs: no
// crash looks like tampering.
func TestKilledEpoch(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{Process: true})
	id, _ := life(t, r)
	for i := range count(t, "CMKD_KILLS", 6) {
		c := r.Client("")
		for n := range 1 + i%3 {
			if _, err := c.UpdateKeyDescription(t.Context(), &kms.UpdateKeyDescriptionInput{KeyId: &id, Description: aws.String(strings.Repeat("d", n))}); err != nil {
				t.Fatal(err)
			}
		}
		_ = r.Process.Process.Signal(os.Interrupt) // it ends its epoch, and is killed in the middle of that or not
		r.Kill()
		r.Start(t)
		if state := r.Status(t).State; state != "ok" {
			t.Fatalf("kill %d: state %s\n%s", i, state, r.Log())
		}
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	// The last start destroyed what earlier ones had left.
	r.Start(t)
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	compareWithToken(t, r)
}
