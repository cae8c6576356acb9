package keys

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

func schedule(t *testing.T, c *kms.Client, id string, days int32) *kms.ScheduleKeyDeletionOutput {
	t.Helper()
	out, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &id, PendingWindowInDays: &days})
	if err != nil {
		t.Fatalf("ScheduleKeyDeletion: %v", err)
	}
	return out
}

// rotated makes a symmetric key with n rotations, a ciphertext of each
// version, and an alias.
func rotated(t *testing.T, c *kms.Client, alias string, n int) (id string, all []rig.Sealed) {
	t.Helper()
	id = rig.NewKey(t, c, &kms.CreateKeyInput{})
	if _, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &id}); err != nil {
		t.Fatal(err)
	}
	all = append(all, rig.Seal(t, c, id, "version 1"))
	for i := range n {
		if _, err := c.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &id}); err != nil {
			t.Fatal(err)
		}
		all = append(all, rig.Seal(t, c, id, fmt.Sprintf("version %d", i+2)))
	}
	return id, all
}

// TestDeletion: before the window is over, cancelling gives everything back;
// after it, everything is gone from the token.
func TestDeletion(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	doomed, lost := rotated(t, c, "alias/doomed", 2)
	spared, kept := rotated(t, c, "alias/spared", 2)
	pair := rig.NewKey(t, c, &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
	mac := rig.NewKey(t, c, &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	half := rig.NewKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeExternal})
	if _, err := c.GetParametersForImport(ctx, &kms.GetParametersForImportInput{
		KeyId: &half, WrappingAlgorithm: types.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: types.WrappingKeySpecRsa2048,
	}); err != nil {
		t.Fatal(err)
	}
	all := []string{doomed, spared, pair, mac, half}
	for _, id := range all {
		if len(rig.Objects(t, r, id)) == 0 {
			t.Errorf("no object of %s in the token: this test would not see one that is left", id)
		}
		out := schedule(t, c, id, 7)
		if !out.DeletionDate.Equal(cl.Now().Add(7*rig.Day)) || out.KeyState != types.KeyStatePendingDeletion {
			t.Errorf("ScheduleKeyDeletion: %+v", out)
		}
	}
	for i := range lost {
		if _, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: lost[i].Blob}); rig.Code(err) != "KMSInvalidStateException" {
			t.Errorf("Decrypt while pending deletion: %v", err)
		}
	}
	cl.Pass(t, r, 7*rig.Day-time.Second, rig.Day)
	for _, id := range all {
		if got := rig.State(t, c, id); got != "PendingDeletion" {
			t.Errorf("%s is %s a second before its time", id, got)
		}
	}
	if _, err := c.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: &spared}); err != nil {
		t.Fatal(err)
	}
	cl.Pass(t, r, time.Second, time.Second)

	for _, id := range []string{doomed, pair, mac, half} {
		if got := rig.State(t, c, id); got != "NotFoundException" {
			t.Errorf("%s is %s after its time", id, got)
		}
		if got := rig.Objects(t, r, id); len(got) != 0 {
			t.Errorf("the token still has %v", got)
		}
	}
	if got := rig.State(t, c, "alias/doomed"); got != "NotFoundException" {
		t.Errorf("the alias of a deleted key is %s", got)
	}
	if _, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: lost[0].Blob}); rig.Code(err) == "" {
		t.Error("a ciphertext of a deleted key opens")
	}
	if _, err := c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &spared}); err != nil {
		t.Fatal(err)
	}
	for i := range kept {
		if got := kept[i].Open(t, c); got != kept[i].Material {
			t.Errorf("%s: material %s", kept[i].Plaintext, got)
		}
	}
	rig.Seal(t, c, "alias/spared", "new")
	if got, want := rig.Objects(t, r, spared), rig.Labels(spared, 3); !slices.Equal(got, want) {
		t.Errorf("the token has %v, want %v", got, want)
	}
	list, err := c.ListKeys(ctx, &kms.ListKeysInput{})
	if err != nil || len(list.Keys) != 1 {
		t.Errorf("ListKeys: %d keys, %v", len(list.Keys), err)
	}
}

// TestClockJumpsAhead: a wrong clock ends no waiting period until an operator
// has looked at it.
func TestClockJumpsAhead(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c := r.Client("")
	id := rig.NewKey(t, c, &kms.CreateKeyInput{})
	rig.RunJobs(t, r)
	schedule(t, c, id, 7)
	cl.Jump(30 * rig.Day)
	for range 3 { // however often it looks, and whatever passes meanwhile
		rig.RunJobs(t, r)
		cl.Jump(time.Hour)
		if got := rig.State(t, c, id); got != "PendingDeletion" {
			t.Fatalf("the key is %s after a jump of the clock", got)
		}
	}
	if !rig.DeletionsHeld(t, r) {
		t.Error("the status does not say that deletions are held")
	}
	// A restart does not confirm the time.
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	r.Start(t)
	c = r.Client("")
	rig.RunJobs(t, r)
	if got := rig.State(t, c, id); got != "PendingDeletion" {
		t.Fatalf("the key is %s after a restart", got)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/confirm-clock", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.HTTP().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode == http.StatusOK || !rig.DeletionsHeld(t, r) {
		t.Error("GET confirmed the clock")
	}
	out, ok := rig.Cmkctl(t, r, "confirm-clock")
	if !ok || !strings.Contains(out, cl.Now().Format(time.RFC3339)) {
		t.Fatalf("cmkctl confirm-clock: %s", out)
	}
	if rig.DeletionsHeld(t, r) {
		t.Error("deletions are held after the clock was confirmed")
	}
	if !strings.Contains(r.AuditTrail(t), `"ConfirmClock"`) {
		t.Error("the audit trail does not know that the clock was confirmed")
	}
	rig.RunJobs(t, r)
	if got := rig.State(t, c, id); got != "NotFoundException" {
		t.Errorf("the key is %s after the clock was confirmed", got)
	}
}

// TestClockJumpsBack: going back gives nothing back, and a rotation that
// happened ahead of time does not put off the next one.
func TestClockJumpsBack(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	pending, disabled, gone := rig.NewKey(t, c, &kms.CreateKeyInput{}), rig.NewKey(t, c, &kms.CreateKeyInput{}), rig.NewKey(t, c, &kms.CreateKeyInput{})
	schedule(t, c, gone, 7)
	cl.Pass(t, r, 7*rig.Day, rig.Day)
	schedule(t, c, pending, 7)
	if _, err := c.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &disabled}); err != nil {
		t.Fatal(err)
	}
	turning := rig.NewKey(t, c, &kms.CreateKeyInput{})
	if _, err := c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &turning}); err != nil {
		t.Fatal(err)
	}
	cl.Jump(3650 * rig.Day)
	rig.RunJobs(t, r)
	cl.Jump(-3750 * rig.Day)
	rig.RunJobs(t, r)
	status, err := c.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &turning})
	if err != nil || !status.NextRotationDate.Equal(cl.Now().Add(365*rig.Day)) || len(rig.Rotations(t, c, turning)) != 1 {
		t.Errorf("after the clock went ten years ahead and back: %+v, %v", status, err)
	}
	for id, want := range map[string]string{pending: "PendingDeletion", disabled: "Disabled", gone: "NotFoundException"} {
		if got := rig.State(t, c, id); got != want {
			t.Errorf("after the clock went back a key is %s, want %s", got, want)
		}
	}
	// The way forward again is a jump ahead.
	cl.Jump(107 * rig.Day)
	rig.RunJobs(t, r)
	if got := rig.State(t, c, pending); got != "PendingDeletion" || !rig.DeletionsHeld(t, r) {
		t.Errorf("the key is %s", got)
	}
}

// TestMultiRegionDeletion: a primary waits for its replicas, and the material
// goes with the last of them.
func TestMultiRegionDeletion(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now, Regions: []string{"eu-west-1"}})
	home, away, ctx := r.Client(""), r.Client("eu-west-1"), t.Context()
	id := rig.NewKey(t, home, &kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
	if _, err := home.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: &id, ReplicaRegion: aws.String("eu-west-1")}); err != nil {
		t.Fatal(err)
	}
	secret := rig.Seal(t, home, id, "secret")
	out := schedule(t, home, id, 7)
	if out.KeyState != types.KeyStatePendingReplicaDeletion || out.DeletionDate != nil || *out.PendingWindowInDays != 7 {
		t.Errorf("ScheduleKeyDeletion of the primary: %+v", out)
	}
	cl.Pass(t, r, 40*rig.Day, rig.Day)
	if got := rig.State(t, home, id); got != "PendingReplicaDeletion" {
		t.Errorf("the primary is %s while it has a replica", got)
	}
	secret.Open(t, away)
	schedule(t, away, id, 7)
	cl.Pass(t, r, 7*rig.Day, rig.Day)
	if got := rig.State(t, away, id); got != "NotFoundException" {
		t.Errorf("the replica is %s after its time", got)
	}
	if got := rig.State(t, home, id); got != "PendingDeletion" {
		t.Errorf("the primary is %s after its last replica is gone", got)
	}
	if got := rig.Objects(t, r, id); len(got) != 1 {
		t.Errorf("the token has %v while the primary waits", got)
	}
	cl.Pass(t, r, 6*rig.Day, rig.Day)
	if got := rig.State(t, home, id); got != "PendingDeletion" {
		t.Errorf("the primary is %s before its own window is over", got)
	}
	cl.Pass(t, r, rig.Day, rig.Day)
	if got := rig.State(t, home, id); got != "NotFoundException" {
		t.Errorf("the primary is %s after its time", got)
	}
	if got := rig.Objects(t, r, id); len(got) != 0 {
		t.Errorf("the token still has %v", got)
	}
}

// TestUnusedKey: a policy can ask that a key was not used for some days.
func TestUnusedKey(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	id := rig.NewKey(t, c, &kms.CreateKeyInput{Policy: aws.String(`{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::` + rig.Account + `:root"}, "Action": "kms:*", "Resource": "*"},
		{"Effect": "Deny", "Principal": "*", "Action": "kms:ScheduleKeyDeletion", "Resource": "*",
		 "Condition": {"NumericLessThan": {"kms:TrailingDaysWithoutKeyUsage": "30"}}}]}`)})
	try := func(want string) {
		t.Helper()
		_, err := c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &id})
		if rig.Code(err) != want {
			t.Errorf("ScheduleKeyDeletion: %v, want %q", err, want)
		}
	}
	usage := func() *types.KeyLastUsageData {
		t.Helper()
		out, err := c.GetKeyLastUsage(ctx, &kms.GetKeyLastUsageInput{KeyId: &id})
		if err != nil {
			t.Fatal(err)
		}
		return out.KeyLastUsage
	}
	if got := usage(); got != nil {
		t.Errorf("an unused key was used: %+v", got)
	}
	cl.Pass(t, r, 20*rig.Day, 10*rig.Day)
	used := cl.Now()
	rig.Seal(t, c, id, "in use")
	last := usage()
	if last == nil || last.Operation != types.KeyLastUsageTrackingOperationDecrypt || !last.Timestamp.Equal(used) {
		t.Fatalf("GetKeyLastUsage: %+v", last)
	}
	if want := fmt.Sprintf(`"requestID":%q,"eventID":%q`, *last.KmsRequestId, aws.ToString(last.CloudTrailEventId)); !strings.Contains(r.AuditTrail(t), want) {
		t.Errorf("the audit trail has no %s", want)
	}
	cl.Pass(t, r, 20*rig.Day, 10*rig.Day)
	// What fails is not a use.
	if _, err := c.Decrypt(ctx, &kms.DecryptInput{KeyId: &id, CiphertextBlob: []byte("not a ciphertext")}); rig.Code(err) != "InvalidCiphertextException" {
		t.Errorf("Decrypt: %v", err)
	}
	if got := usage(); got == nil || !got.Timestamp.Equal(used) || aws.ToString(got.CloudTrailEventId) != *last.CloudTrailEventId {
		t.Errorf("GetKeyLastUsage after a failed call: %+v", got)
	}
	try("AccessDeniedException")
	cl.Pass(t, r, 10*rig.Day, rig.Day)
	try("")
}
