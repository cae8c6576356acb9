package daemon_test

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
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

// state is KeyState, or the code of the error.
func state(t *testing.T, c *kms.Client, id string) string {
	t.Helper()
	out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
	if err != nil {
		return code(err)
	}
	return string(out.KeyMetadata.KeyState)
}

// rotated makes a symmetric key with n rotations, a ciphertext of each
// version, and an alias.
func rotated(t *testing.T, c *kms.Client, alias string, n int) (id string, all []sealed) {
	t.Helper()
	id = newKey(t, c, &kms.CreateKeyInput{})
	if _, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &id}); err != nil {
		t.Fatal(err)
	}
	all = append(all, seal(t, c, id, "version 1"))
	for i := range n {
		if _, err := c.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &id}); err != nil {
			t.Fatal(err)
		}
		all = append(all, seal(t, c, id, fmt.Sprintf("version %d", i+2)))
	}
	return id, all
}

// TestDeletion: before the window is over, cancelling gives everything back;
// after it, everything is gone from the token.
func TestDeletion(t *testing.T) {
	t.Parallel()
	cl := newClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	doomed, lost := rotated(t, c, "alias/doomed", 2)
	spared, kept := rotated(t, c, "alias/spared", 2)
	pair := newKey(t, c, &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
	mac := newKey(t, c, &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	half := newKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeExternal})
	if _, err := c.GetParametersForImport(ctx, &kms.GetParametersForImportInput{
		KeyId: &half, WrappingAlgorithm: types.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: types.WrappingKeySpecRsa2048,
	}); err != nil {
		t.Fatal(err)
	}
	all := []string{doomed, spared, pair, mac, half}
	for _, id := range all {
		if len(objects(t, r, id)) == 0 {
			t.Errorf("no object of %s in the token: this test would not see one that is left", id)
		}
		out := schedule(t, c, id, 7)
		if !out.DeletionDate.Equal(cl.Now().Add(7*day)) || out.KeyState != types.KeyStatePendingDeletion {
			t.Errorf("ScheduleKeyDeletion: %+v", out)
		}
	}
	for i := range lost {
		if _, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: lost[i].blob}); code(err) != "KMSInvalidStateException" {
			t.Errorf("Decrypt while pending deletion: %v", err)
		}
	}
	cl.pass(t, r, 7*day-time.Second, day)
	for _, id := range all {
		if got := state(t, c, id); got != "PendingDeletion" {
			t.Errorf("%s is %s a second before its time", id, got)
		}
	}
	if _, err := c.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: &spared}); err != nil {
		t.Fatal(err)
	}
	cl.pass(t, r, time.Second, time.Second)

	for _, id := range []string{doomed, pair, mac, half} {
		if got := state(t, c, id); got != "NotFoundException" {
			t.Errorf("%s is %s after its time", id, got)
		}
		if got := objects(t, r, id); len(got) != 0 {
			t.Errorf("the token still has %v", got)
		}
	}
	if got := state(t, c, "alias/doomed"); got != "NotFoundException" {
		t.Errorf("the alias of a deleted key is %s", got)
	}
	if _, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: lost[0].blob}); code(err) == "" {
		t.Error("a ciphertext of a deleted key opens")
	}
	if _, err := c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &spared}); err != nil {
		t.Fatal(err)
	}
	for i := range kept {
		if got := kept[i].open(t, c); got != kept[i].material {
			t.Errorf("%s: material %s", kept[i].plaintext, got)
		}
	}
	seal(t, c, "alias/spared", "new")
	if got, want := objects(t, r, spared), labels(spared, 3); !slices.Equal(got, want) {
		t.Errorf("the token has %v, want %v", got, want)
	}
	list, err := c.ListKeys(ctx, &kms.ListKeysInput{})
	if err != nil || len(list.Keys) != 1 {
		t.Errorf("ListKeys: %d keys, %v", len(list.Keys), err)
	}
}

// held reports whether the daemon says that it holds deletions.
func held(t *testing.T, r *rig.Rig) bool {
	t.Helper()
	out, _ := cmkctl(t, r, "status")
	return strings.Contains(out, "deletions  held")
}

func cmkctl(t *testing.T, r *rig.Rig, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(rig.Binaries(t), "cmkctl"), append([]string{"--socket", r.Socket}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestClockJumpsAhead: a wrong clock ends no waiting period until an operator
// has looked at it.
func TestClockJumpsAhead(t *testing.T) {
	t.Parallel()
	cl := newClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c := r.Client("")
	id := newKey(t, c, &kms.CreateKeyInput{})
	runJobs(t, r)
	schedule(t, c, id, 7)
	cl.jump(30 * day)
	for range 3 { // however often it looks, and whatever passes meanwhile
		runJobs(t, r)
		cl.jump(time.Hour)
		if got := state(t, c, id); got != "PendingDeletion" {
			t.Fatalf("the key is %s after a jump of the clock", got)
		}
	}
	if !held(t, r) {
		t.Error("the status does not say that deletions are held")
	}
	// A restart does not confirm the time.
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	r.Start(t)
	c = r.Client("")
	runJobs(t, r)
	if got := state(t, c, id); got != "PendingDeletion" {
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
	if resp.StatusCode == http.StatusOK || !held(t, r) {
		t.Error("GET confirmed the clock")
	}
	out, err := cmkctl(t, r, "confirm-clock")
	if err != nil || !strings.Contains(out, cl.Now().Format(time.RFC3339)) {
		t.Fatalf("cmkctl confirm-clock: %v, %s", err, out)
	}
	if held(t, r) {
		t.Error("deletions are held after the clock was confirmed")
	}
	if !strings.Contains(r.AuditTrail(t), `"ConfirmClock"`) {
		t.Error("the audit trail does not know that the clock was confirmed")
	}
	runJobs(t, r)
	if got := state(t, c, id); got != "NotFoundException" {
		t.Errorf("the key is %s after the clock was confirmed", got)
	}
}

// TestClockJumpsBack: going back gives nothing back, and a rotation that
// happened ahead of time does not put off the next one.
func TestClockJumpsBack(t *testing.T) {
	t.Parallel()
	cl := newClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	pending, disabled, gone := newKey(t, c, &kms.CreateKeyInput{}), newKey(t, c, &kms.CreateKeyInput{}), newKey(t, c, &kms.CreateKeyInput{})
	schedule(t, c, gone, 7)
	cl.pass(t, r, 7*day, day)
	schedule(t, c, pending, 7)
	if _, err := c.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &disabled}); err != nil {
		t.Fatal(err)
	}
	turning := newKey(t, c, &kms.CreateKeyInput{})
	if _, err := c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &turning}); err != nil {
		t.Fatal(err)
	}
	cl.jump(3650 * day)
	runJobs(t, r)
	cl.jump(-3750 * day)
	runJobs(t, r)
	status, err := c.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &turning})
	if err != nil || !status.NextRotationDate.Equal(cl.Now().Add(365*day)) || len(rotations(t, c, turning)) != 1 {
		t.Errorf("after the clock went ten years ahead and back: %+v, %v", status, err)
	}
	for id, want := range map[string]string{pending: "PendingDeletion", disabled: "Disabled", gone: "NotFoundException"} {
		if got := state(t, c, id); got != want {
			t.Errorf("after the clock went back a key is %s, want %s", got, want)
		}
	}
	// The way forward again is a jump ahead.
	cl.jump(107 * day)
	runJobs(t, r)
	if got := state(t, c, pending); got != "PendingDeletion" || !held(t, r) {
		t.Errorf("the key is %s", got)
	}
}

// TestMultiRegionDeletion: a primary waits for its replicas, and the material
// goes with the last of them.
func TestMultiRegionDeletion(t *testing.T) {
	t.Parallel()
	cl := newClock()
	r := rig.New(t, rig.Config{Now: cl.Now, Regions: []string{"eu-west-1"}})
	home, away, ctx := r.Client(""), r.Client("eu-west-1"), t.Context()
	id := newKey(t, home, &kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
	if _, err := home.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: &id, ReplicaRegion: aws.String("eu-west-1")}); err != nil {
		t.Fatal(err)
	}
	secret := seal(t, home, id, "secret")
	out := schedule(t, home, id, 7)
	if out.KeyState != types.KeyStatePendingReplicaDeletion || out.DeletionDate != nil || *out.PendingWindowInDays != 7 {
		t.Errorf("ScheduleKeyDeletion of the primary: %+v", out)
	}
	cl.pass(t, r, 40*day, day)
	if got := state(t, home, id); got != "PendingReplicaDeletion" {
		t.Errorf("the primary is %s while it has a replica", got)
	}
	secret.open(t, away)
	schedule(t, away, id, 7)
	cl.pass(t, r, 7*day, day)
	if got := state(t, away, id); got != "NotFoundException" {
		t.Errorf("the replica is %s after its time", got)
	}
	if got := state(t, home, id); got != "PendingDeletion" {
		t.Errorf("the primary is %s after its last replica is gone", got)
	}
	if got := objects(t, r, id); len(got) != 1 {
		t.Errorf("the token has %v while the primary waits", got)
	}
	cl.pass(t, r, 6*day, day)
	if got := state(t, home, id); got != "PendingDeletion" {
		t.Errorf("the primary is %s before its own window is over", got)
	}
	cl.pass(t, r, day, day)
	if got := state(t, home, id); got != "NotFoundException" {
		t.Errorf("the primary is %s after its time", got)
	}
	if got := objects(t, r, id); len(got) != 0 {
		t.Errorf("the token still has %v", got)
	}
}

// TestUnusedKey: a policy can ask that a key was not used for some days.
func TestUnusedKey(t *testing.T) {
	t.Parallel()
	cl := newClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	id := newKey(t, c, &kms.CreateKeyInput{Policy: aws.String(`{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::` + rig.Account + `:root"}, "Action": "kms:*", "Resource": "*"},
		{"Effect": "Deny", "Principal": "*", "Action": "kms:ScheduleKeyDeletion", "Resource": "*",
		 "Condition": {"NumericLessThan": {"kms:TrailingDaysWithoutKeyUsage": "30"}}}]}`)})
	try := func(want string) {
		t.Helper()
		_, err := c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &id})
		if code(err) != want {
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
	cl.pass(t, r, 20*day, 10*day)
	used := cl.Now()
	seal(t, c, id, "in use")
	last := usage()
	if last == nil || last.Operation != types.KeyLastUsageTrackingOperationDecrypt || !last.Timestamp.Equal(used) {
		t.Fatalf("GetKeyLastUsage: %+v", last)
	}
	if want := fmt.Sprintf(`"requestID":%q,"eventID":%q`, *last.KmsRequestId, aws.ToString(last.CloudTrailEventId)); !strings.Contains(r.AuditTrail(t), want) {
		t.Errorf("the audit trail has no %s", want)
	}
	cl.pass(t, r, 20*day, 10*day)
	// What fails is no use.
	if _, err := c.Decrypt(ctx, &kms.DecryptInput{KeyId: &id, CiphertextBlob: []byte("not a ciphertext")}); code(err) != "InvalidCiphertextException" {
		t.Errorf("Decrypt: %v", err)
	}
	if got := usage(); got == nil || !got.Timestamp.Equal(used) || aws.ToString(got.CloudTrailEventId) != *last.CloudTrailEventId {
		t.Errorf("GetKeyLastUsage after a failed call: %+v", got)
	}
	try("AccessDeniedException")
	cl.pass(t, r, 10*day, day)
	try("")
}
