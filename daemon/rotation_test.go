package daemon_test

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// sealed is a ciphertext and what it should open to.
type sealed struct {
	blob, plaintext []byte
	material        string
}

// seal encrypts under the key as it is now.
func seal(t *testing.T, c *kms.Client, id, text string) sealed {
	t.Helper()
	out, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: []byte(text)})
	if err != nil {
		t.Fatalf("Encrypt: %v", err)
	}
	s := sealed{blob: out.CiphertextBlob, plaintext: []byte(text)}
	s.material = s.open(t, c)
	return s
}

// open decrypts and returns the key material ID that the answer names.
func (s *sealed) open(t *testing.T, c *kms.Client) string {
	t.Helper()
	out, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: s.blob})
	if err != nil || !bytes.Equal(out.Plaintext, s.plaintext) {
		t.Fatalf("Decrypt of %q: %v", s.plaintext, err)
	}
	return aws.ToString(out.KeyMaterialId)
}

func current(t *testing.T, c *kms.Client, id string) string {
	t.Helper()
	out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
	if err != nil {
		t.Fatalf("DescribeKey: %v", err)
	}
	return aws.ToString(out.KeyMetadata.CurrentKeyMaterialId)
}

func rotations(t *testing.T, c *kms.Client, id string) []types.RotationsListEntry {
	t.Helper()
	var all []types.RotationsListEntry
	pages := kms.NewListKeyRotationsPaginator(c, &kms.ListKeyRotationsInput{KeyId: &id, Limit: aws.Int32(7)})
	for pages.HasMorePages() {
		out, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatalf("ListKeyRotations: %v", err)
		}
		all = append(all, out.Rotations...)
	}
	return all
}

// TestAutomaticRotation lets 400 days pass over a key that rotates every 90
// days and over one with the usual year.
func TestAutomaticRotation(t *testing.T) {
	t.Parallel()
	cl := newClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	often, yearly, never := newKey(t, c, &kms.CreateKeyInput{}), newKey(t, c, &kms.CreateKeyInput{}), newKey(t, c, &kms.CreateKeyInput{})
	start := cl.Now()
	if _, err := c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &often, RotationPeriodInDays: aws.Int32(90)}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &yearly}); err != nil {
		t.Fatal(err)
	}
	var all []sealed
	for _, id := range []string{often, yearly, never} {
		all = append(all, seal(t, c, id, "day 0"))
	}
	for d := 20; d <= 400; d += 20 {
		cl.pass(t, r, 20*day, 5*day)
		for _, id := range []string{often, yearly, never} {
			all = append(all, seal(t, c, id, fmt.Sprintf("day %d of %s", d, id)))
		}
	}
	for i := range all {
		if got := all[i].open(t, c); got != all[i].material {
			t.Errorf("%s opened with material %s, was sealed with %s", all[i].plaintext, got, all[i].material)
		}
	}
	for _, tt := range []struct {
		id   string
		days []int // when it rotated
	}{{often, []int{90, 180, 270, 360}}, {yearly, []int{365}}, {never, nil}} {
		list := rotations(t, c, tt.id)
		var got []int
		for _, e := range list {
			if e.RotationType != types.RotationTypeAutomatic {
				t.Errorf("RotationType %s", e.RotationType)
			}
			got = append(got, int(e.RotationDate.Sub(start)/day))
		}
		if !slices.Equal(got, tt.days) {
			t.Errorf("rotated on days %v, want %v", got, tt.days)
		}
	}
	status, err := c.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &often})
	if err != nil || !status.KeyRotationEnabled || !status.NextRotationDate.Equal(start.Add(450*day)) {
		t.Errorf("GetKeyRotationStatus: %+v, %v", status, err)
	}
	// ReEncrypt moves every ciphertext to the newest material.
	for i := range all {
		out, err := c.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: all[i].blob, DestinationKeyId: &often})
		if err != nil {
			t.Fatal(err)
		}
		if *out.SourceKeyMaterialId != all[i].material || *out.DestinationKeyMaterialId != current(t, c, often) {
			t.Errorf("ReEncrypt from %s to %s", *out.SourceKeyMaterialId, *out.DestinationKeyMaterialId)
		}
		moved := sealed{blob: out.CiphertextBlob, plaintext: all[i].plaintext}
		if got := moved.open(t, c); got != current(t, c, often) {
			t.Errorf("moved to material %s", got)
		}
	}
}

// TestLateRotation: a key that could not rotate for several periods (it was
// disabled) rotates once, when it is enabled again; one whose rotation was
// turned off does not.
func TestLateRotation(t *testing.T) {
	t.Parallel()
	cl := newClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	id, off := newKey(t, c, &kms.CreateKeyInput{}), newKey(t, c, &kms.CreateKeyInput{})
	for _, k := range []string{id, off} {
		if _, err := c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &k, RotationPeriodInDays: aws.Int32(90)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.DisableKeyRotation(ctx, &kms.DisableKeyRotationInput{KeyId: &off}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &id}); err != nil {
		t.Fatal(err)
	}
	cl.pass(t, r, 300*day, 10*day)
	if n := len(rotations(t, c, id)); n != 0 {
		t.Errorf("a disabled key rotated %d times", n)
	}
	if _, err := c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &id}); err != nil {
		t.Fatal(err)
	}
	runJobs(t, r)
	runJobs(t, r)
	list := rotations(t, c, id)
	if len(list) != 1 || !list[0].RotationDate.Equal(cl.Now()) {
		t.Errorf("rotations after it was enabled: %+v", list)
	}
	status, err := c.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &id})
	if err != nil || !status.NextRotationDate.Equal(cl.Now().Add(90*day)) {
		t.Errorf("GetKeyRotationStatus: %+v, %v", status, err)
	}
	if n := len(rotations(t, c, off)); n != 0 {
		t.Errorf("a key without rotation rotated %d times", n)
	}
}

// TestRotateOnDemand does the 25 rotations that a key has, and the one that it
// does not have.
func TestRotateOnDemand(t *testing.T) {
	t.Parallel()
	cl := newClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	id := newKey(t, c, &kms.CreateKeyInput{})
	if _, err := c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &id}); err != nil {
		t.Fatal(err)
	}
	due := cl.Now().Add(365 * day)
	all := []sealed{seal(t, c, id, "first")}
	for i := range 25 {
		cl.jump(time.Hour)
		if _, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &id}); err != nil {
			t.Fatalf("rotation %d: %v", i+1, err)
		}
		all = append(all, seal(t, c, id, fmt.Sprintf("after rotation %d", i+1)))
	}
	_, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &id})
	if code(err) != "LimitExceededException" {
		t.Errorf("rotation 26: %v", err)
	}
	seen := map[string]bool{}
	for i := range all {
		if got := all[i].open(t, c); got != all[i].material {
			t.Errorf("%s: material %s, want %s", all[i].plaintext, got, all[i].material)
		}
		seen[all[i].material] = true
	}
	if len(seen) != 26 {
		t.Errorf("%d different materials, want 26", len(seen))
	}
	if n := len(rotations(t, c, id)); n != 25 {
		t.Errorf("%d rotations are listed", n)
	}
	// The schedule does not change, and automatic rotation has no limit.
	status, err := c.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &id})
	if err != nil || !status.NextRotationDate.Equal(due) || status.OnDemandRotationStartDate != nil {
		t.Errorf("GetKeyRotationStatus: %+v, %v", status, err)
	}
	cl.jump(366 * day)
	runJobs(t, r)
	if n := len(rotations(t, c, id)); n != 26 {
		t.Errorf("%d rotations after a year", n)
	}
}

// TestRotationsAtOnce: of rotations at the same time each is done whole or
// refused, and the jobs of one period rotate once.
func TestRotationsAtOnce(t *testing.T) {
	t.Parallel()
	cl := newClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	id := newKey(t, c, &kms.CreateKeyInput{})
	first := seal(t, c, id, "first")
	var wg sync.WaitGroup
	errs := make([]error, 12)
	for i := range errs {
		wg.Go(func() { _, errs[i] = c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &id}) })
	}
	wg.Wait()
	done := 0
	for _, err := range errs {
		switch code(err) {
		case "":
			done++
		case "ConflictException":
		default:
			t.Errorf("RotateKeyOnDemand: %v", err)
		}
	}
	if n := len(rotations(t, c, id)); done == 0 || n != done {
		t.Errorf("%d rotations were answered, %d are listed", done, n)
	}
	if _, err := c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &id, RotationPeriodInDays: aws.Int32(90)}); err != nil {
		t.Fatal(err)
	}
	cl.jump(91 * day)
	for range 4 {
		wg.Go(func() {
			if err := r.Daemon.RunJobs(ctx); err != nil {
				t.Errorf("RunJobs: %v", err)
			}
		})
	}
	wg.Wait()
	if n := len(rotations(t, c, id)); n != done+1 {
		t.Errorf("%d rotations when one was due", n-done)
	}
	first.open(t, c)
}
