package keys

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/daemon"
	"cmkd/testenv"
	"cmkd/testenv/rig"
	"cmkd/testenv/shim"
)

// serviceEvent is a record of what the service did on its own.
type serviceEvent struct {
	EventID, EventName, EventType, EventSource, AWSRegion, ErrorCode string

	EventTime    time.Time
	UserIdentity struct{ Type, AccountID, InvokedBy, ARN string }
	Resources    []struct{ ARN string }

	ServiceEventDetails struct {
		RotationType, KeyOrigin, PreviousKeyMaterialID, CurrentKeyMaterialID string
		KeyID, KeyMaterialID, Interrupted, Label                             string
	}
}

// serviceEvents are those of the key, oldest first. The trail must verify.
func serviceEvents(t *testing.T, r *rig.Rig, id string) []serviceEvent {
	t.Helper()
	if _, err := daemon.VerifyTrail(filepath.Join(r.Dir, "s", "audit"), daemon.TrailOptions{ChainOnly: true}); err != nil {
		t.Fatalf("the trail does not verify: %v", err)
	}
	var found []serviceEvent
	for line := range strings.Lines(r.AuditTrail(t)) {
		var e serviceEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.EventType != "AwsServiceEvent" || e.ServiceEventDetails.KeyID != id {
			continue
		}
		if e.EventSource != "kms.amazonaws.com" || e.UserIdentity.Type != "AWSService" || e.UserIdentity.AccountID != rig.Account ||
			e.UserIdentity.InvokedBy != "cmkd" || e.UserIdentity.ARN != "" {
			t.Errorf("the record names another service: %s", line)
		}
		found = append(found, e)
	}
	return found
}

// summary is the name of an event, where it was, its errorCode and the ARNs.
func (e *serviceEvent) summary() string {
	parts := []string{e.EventName, e.AWSRegion, e.ErrorCode}
	for _, r := range e.Resources {
		parts = append(parts, strings.TrimPrefix(r.ARN, "arn:aws:kms:"))
	}
	return strings.TrimSpace(strings.Join(parts, " "))
}

// expectEvents compares the events of the key with summaries, in which KEY
// stands for the rest of its ARN.
func expectEvents(t *testing.T, r *rig.Rig, id string, want ...string) []serviceEvent {
	t.Helper()
	events := serviceEvents(t, r, id)
	var got []string
	for i := range events {
		got = append(got, strings.ReplaceAll(events[i].summary(), rig.Account+":key/"+id, "KEY"))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("the trail tells of\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	return events
}

// TestServiceEvents: what the daemon does to keys on its own is in the trail as
// CloudTrail has it.
func TestServiceEvents(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now, Regions: []string{"eu-west-1"}, Tables: "[[managed_key]]\nalias = \"alias/aws/backup\"\nusers = [\"*\"]\n"})
	c, away, ctx := r.Client(""), r.Client("eu-west-1"), t.Context()

	turning := rig.NewKey(t, c, &kms.CreateKeyInput{})
	if _, err := c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &turning, RotationPeriodInDays: aws.Int32(90)}); err != nil {
		t.Fatal(err)
	}
	materials := []string{rig.Current(t, c, turning)}
	if _, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &turning}); err != nil {
		t.Fatal(err)
	}
	materials = append(materials, rig.Current(t, c, turning))

	primary := rig.NewKey(t, c, &kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
	if _, err := c.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: &primary, ReplicaRegion: aws.String("eu-west-1")}); err != nil {
		t.Fatal(err)
	}
	schedule(t, c, primary, 7)
	schedule(t, away, primary, 8)

	expiring := rig.NewImport(t, c)
	in := expiring.Parameters(t)
	in.ExpirationModel, in.ValidTo = types.ExpirationModelTypeKeyMaterialExpires, aws.Time(cl.Now().Add(10*rig.Day))
	imported, err := c.ImportKeyMaterial(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	expiring.Parameters(t) // that nobody will use
	metric := fmt.Sprintf("cmkd_key_material_expiry_timestamp_seconds{key=%q} ", "arn:aws:kms:us-east-1:"+rig.Account+":key/"+expiring.ID)
	text, _ := rig.Cmkctl(t, r, "metrics")
	_, value, _ := strings.Cut(text, metric)
	value, _, _ = strings.Cut(value, "\n")
	if seconds, err := strconv.ParseFloat(value, 64); err != nil || int64(seconds) != in.ValidTo.Unix() {
		t.Errorf("the metrics say that the material expires at %q, not %d", value, in.ValidTo.Unix())
	}

	rig.Seal(t, c, "alias/aws/backup", "text")
	managed, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/aws/backup")})
	if err != nil {
		t.Fatal(err)
	}

	began := cl.Now()
	cl.Pass(t, r, 91*rig.Day, rig.Day)
	materials = append(materials, rig.Current(t, c, turning))
	rig.RunJobs(t, r) // nothing is due

	events := expectEvents(t, r, turning, "RotateKey us-east-1  us-east-1:KEY", "RotateKey us-east-1  us-east-1:KEY")
	for i, kind := range []string{"ON_DEMAND", "AUTOMATIC"} {
		d := events[i].ServiceEventDetails
		if d.RotationType != kind || d.KeyOrigin != "AWS_KMS" || d.PreviousKeyMaterialID != materials[i] || d.CurrentKeyMaterialID != materials[i+1] {
			t.Errorf("rotation %d: %+v, the materials are %v", i, d, materials)
		}
	}
	if at := events[1].EventTime; !at.Equal(began.Add(90 * rig.Day)) {
		t.Errorf("the rotation was at %v", at)
	}
	expectEvents(t, r, primary, "DeleteKey eu-west-1  eu-west-1:KEY", "DeleteKey us-east-1  us-east-1:KEY")
	events = expectEvents(t, r, expiring.ID, "DeleteExpiredImportParameters us-east-1  us-east-1:KEY", "DeleteExpiredKeyMaterial us-east-1  us-east-1:KEY")
	if d := events[1].ServiceEventDetails; d.KeyMaterialID != *imported.KeyMaterialId {
		t.Errorf("DeleteExpiredKeyMaterial: %+v, want %s", d, *imported.KeyMaterialId)
	}
	expectEvents(t, r, *managed.KeyMetadata.KeyId, "CreateKey us-east-1  us-east-1:KEY")
}

// TestDeletionNeedsItsRecord: a key is not destroyed as long as the trail cannot
// be written, and is once it can.
func TestDeletionNeedsItsRecord(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c := r.Client("")
	id := rig.NewKey(t, c, &kms.CreateKeyInput{})
	schedule(t, c, id, 7)
	cl.Pass(t, r, 7*rig.Day-time.Second, rig.Day)
	trail := filepath.Join(r.Dir, "s", "audit")
	// A folder that is a file: records cannot be written, by root either.
	if err := os.Rename(trail, trail+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(trail, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cl.Jump(time.Second)
	for range 3 {
		if err := r.Daemon.RunJobs(t.Context()); err == nil {
			t.Error("jobs without a trail succeed")
		}
		if got := rig.Objects(t, r, id); !slices.Equal(got, rig.Labels(id, 1)) {
			t.Fatalf("the token has %v", got)
		}
	}
	if err := os.Remove(trail); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(trail+".away", trail); err != nil {
		t.Fatal(err)
	}
	if got := rig.State(t, c, id); got != "PendingDeletion" && got != "KMSInternalException" {
		t.Errorf("the key is %s", got)
	}
	rig.RunJobs(t, r)
	if got := rig.State(t, c, id); got != "NotFoundException" || len(rig.Objects(t, r, id)) != 0 {
		t.Errorf("the key is %s, the token has %v", got, rig.Objects(t, r, id))
	}
	// What may have been written when the trail broke is written again.
	events := serviceEvents(t, r, id)
	for i := range events {
		if events[i].summary() != events[0].summary() || events[i].EventID != events[0].EventID {
			t.Errorf("event %d is %+v", i, events[i])
		}
	}
	if len(events) < 1 || len(events) > 2 || events[0].EventName != "DeleteKey" {
		t.Errorf("the trail tells of %+v", events)
	}
}

// alter runs statements on the database under a running daemon.
func alter(t *testing.T, r *rig.Rig, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", rig.Database(r)+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFailedEvents: what fails is recorded once for each cause, however often
// it is tried, and what was recorded and did not happen is recorded again under
// the same ID.
func TestFailedEvents(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	tok := testenv.NewTokenLabelled(t, "second")
	module := shim.New(t, tok.Module)
	r := rig.New(t, rig.Config{SQLite: true, Now: cl.Now, Tables: rig.FurtherToken("second", rig.Cluster, tok, module.Path, module.Env)})
	c, ctx := r.Client(""), t.Context()
	store := rig.NewKeyStore(t, c)
	remote, witness := rig.NewKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: &store}),
		rig.NewKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: &store})
	local := rig.NewKey(t, c, &kms.CreateKeyInput{})
	schedule(t, c, remote, 7)
	schedule(t, c, local, 8)
	fails := func() {
		t.Helper()
		for range 3 {
			if err := r.Daemon.RunJobs(ctx); err == nil {
				t.Error("the jobs succeed")
			}
		}
	}

	// The token is away when the key is due.
	cl.Pass(t, r, 7*rig.Day-time.Second, rig.Day)
	for _, f := range gone {
		module.Control.Set(f, shim.Fail(0x32)) // CKR_DEVICE_REMOVED
	}
	for rig.State(t, c, witness) != "Unavailable" {
		_, _ = c.Encrypt(ctx, &kms.EncryptInput{KeyId: &witness, Plaintext: []byte("x")}) // the daemon finds out
	}
	cl.Jump(time.Second)
	fails()
	expectEvents(t, r, remote, "DeleteKey us-east-1 KMSInvalidStateException us-east-1:KEY")
	for _, f := range gone {
		module.Control.Clear(f)
	}
	awaitState(t, c, witness, "Enabled")
	rig.RunJobs(t, r)
	expectEvents(t, r, remote, "DeleteKey us-east-1 KMSInvalidStateException us-east-1:KEY", "DeleteKey us-east-1  us-east-1:KEY")

	// The database fails behind the record.
	alter(t, r, "CREATE TRIGGER fault BEFORE DELETE ON keys BEGIN SELECT RAISE(ABORT, 'fault'); END")
	cl.Jump(rig.Day)
	fails()
	want := []string{"DeleteKey us-east-1  us-east-1:KEY", "DeleteKey us-east-1 KMSInternalException us-east-1:KEY"}
	expectEvents(t, r, local, want...)
	if got := rig.Objects(t, r, local); !slices.Equal(got, rig.Labels(local, 1)) {
		t.Errorf("the token has %v", got)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	// Behind the record, the intent cannot end.
	rig.Tamper(t, r, "DROP TRIGGER fault", "CREATE TRIGGER fault BEFORE DELETE ON intents WHEN OLD.document LIKE '%"+local+"%' BEGIN SELECT RAISE(ABORT, 'fault'); END")
	r.Start(t)
	c = r.Client("")
	fails()
	want = append(want, want[0], "ReconcileKeyMaterial us-east-1  us-east-1:KEY", "ReconcileKeyMaterial us-east-1 KMSInternalException us-east-1:KEY")
	events := expectEvents(t, r, local, want...)
	if events[2].EventID != events[0].EventID || events[1].EventID == events[0].EventID {
		t.Errorf("the same deletion has the IDs %s and %s, a failure %s", events[0].EventID, events[2].EventID, events[1].EventID)
	}
	if d := events[3].ServiceEventDetails; d.Interrupted != "destroy" || d.Label != rig.Labels(local, 1)[0] {
		t.Errorf("ReconcileKeyMaterial: %+v", d)
	}
	if got := rig.State(t, c, local); got != "NotFoundException" {
		t.Errorf("the key is %s", got)
	}
	alter(t, r, "DROP TRIGGER fault")
	rig.RunJobs(t, r)
	expectEvents(t, r, local, want...)
}
