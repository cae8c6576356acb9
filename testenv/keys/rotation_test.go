package keys

import (
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

// TestAutomaticRotation lets 400 days pass over a key that rotates every 90
// days and over one with the usual year.
func TestAutomaticRotation(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	often, yearly, never := rig.NewKey(t, c, &kms.CreateKeyInput{}), rig.NewKey(t, c, &kms.CreateKeyInput{}), rig.NewKey(t, c, &kms.CreateKeyInput{})
	start := cl.Now()
	if _, err := c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &often, RotationPeriodInDays: aws.Int32(90)}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &yearly}); err != nil {
		t.Fatal(err)
	}
	var all []rig.Sealed
	for _, id := range []string{often, yearly, never} {
		all = append(all, rig.Seal(t, c, id, "day 0"))
	}
	for d := 20; d <= 400; d += 20 {
		cl.Pass(t, r, 20*rig.Day, 5*rig.Day)
		for _, id := range []string{often, yearly, never} {
			all = append(all, rig.Seal(t, c, id, fmt.Sprintf("day %d of %s", d, id)))
		}
	}
	for i := range all {
		if got := all[i].Open(t, c); got != all[i].Material {
			t.Errorf("%s opened with material %s, was sealed with %s", all[i].Plaintext, got, all[i].Material)
		}
	}
	for _, tt := range []struct {
		id   string
		days []int // when it rotated
	}{{often, []int{90, 180, 270, 360}}, {yearly, []int{365}}, {never, nil}} {
		list := rig.Rotations(t, c, tt.id)
		var got []int
		for _, e := range list {
			if e.RotationType != types.RotationTypeAutomatic {
				t.Errorf("RotationType %s", e.RotationType)
			}
			got = append(got, int(e.RotationDate.Sub(start)/rig.Day))
		}
		if !slices.Equal(got, tt.days) {
			t.Errorf("rotated on days %v, want %v", got, tt.days)
		}
	}
	status, err := c.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &often})
	if err != nil || !status.KeyRotationEnabled || !status.NextRotationDate.Equal(start.Add(450*rig.Day)) {
		t.Errorf("GetKeyRotationStatus: %+v, %v", status, err)
	}
	// ReEncrypt moves every ciphertext to the newest material.
	for i := range all {
		out, err := c.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: all[i].Blob, DestinationKeyId: &often})
		if err != nil {
			t.Fatal(err)
		}
		if *out.SourceKeyMaterialId != all[i].Material || *out.DestinationKeyMaterialId != rig.Current(t, c, often) {
			t.Errorf("ReEncrypt from %s to %s", *out.SourceKeyMaterialId, *out.DestinationKeyMaterialId)
		}
		moved := rig.Sealed{Blob: out.CiphertextBlob, Plaintext: all[i].Plaintext}
		if got := moved.Open(t, c); got != rig.Current(t, c, often) {
			t.Errorf("moved to material %s", got)
		}
	}
}

// TestLateRotation: a key that could not rotate for several periods (it was
// disabled) rotates once, when it is enabled again; one whose rotation was
// turned off does not.
func TestLateRotation(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	id, off := rig.NewKey(t, c, &kms.CreateKeyInput{}), rig.NewKey(t, c, &kms.CreateKeyInput{})
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
	cl.Pass(t, r, 300*rig.Day, 10*rig.Day)
	if n := len(rig.Rotations(t, c, id)); n != 0 {
		t.Errorf("a disabled key rotated %d times", n)
	}
	if _, err := c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &id}); err != nil {
		t.Fatal(err)
	}
	rig.RunJobs(t, r)
	rig.RunJobs(t, r)
	list := rig.Rotations(t, c, id)
	if len(list) != 1 || !list[0].RotationDate.Equal(cl.Now()) {
		t.Errorf("rotations after it was enabled: %+v", list)
	}
	status, err := c.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &id})
	if err != nil || !status.NextRotationDate.Equal(cl.Now().Add(90*rig.Day)) {
		t.Errorf("GetKeyRotationStatus: %+v, %v", status, err)
	}
	if n := len(rig.Rotations(t, c, off)); n != 0 {
		t.Errorf("a key without rotation rotated %d times", n)
	}
}

// TestRotateOnDemand does the 25 rotations that a key has, and the one that it
// does not have.
func TestRotateOnDemand(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	id := rig.NewKey(t, c, &kms.CreateKeyInput{})
	if _, err := c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &id}); err != nil {
		t.Fatal(err)
	}
	due := cl.Now().Add(365 * rig.Day)
	all := []rig.Sealed{rig.Seal(t, c, id, "first")}
	for i := range 25 {
		cl.Jump(time.Hour)
		if _, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &id}); err != nil {
			t.Fatalf("rotation %d: %v", i+1, err)
		}
		all = append(all, rig.Seal(t, c, id, fmt.Sprintf("after rotation %d", i+1)))
	}
	_, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &id})
	if rig.Code(err) != "LimitExceededException" {
		t.Errorf("rotation 26: %v", err)
	}
	seen := map[string]bool{}
	for i := range all {
		if got := all[i].Open(t, c); got != all[i].Material {
			t.Errorf("%s: material %s, want %s", all[i].Plaintext, got, all[i].Material)
		}
		seen[all[i].Material] = true
	}
	if len(seen) != 26 {
		t.Errorf("%d different materials, want 26", len(seen))
	}
	if n := len(rig.Rotations(t, c, id)); n != 25 {
		t.Errorf("%d rotations are listed", n)
	}
	// The schedule does not change, and automatic rotation has no limit.
	status, err := c.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &id})
	if err != nil || !status.NextRotationDate.Equal(due) || status.OnDemandRotationStartDate != nil {
		t.Errorf("GetKeyRotationStatus: %+v, %v", status, err)
	}
	cl.Jump(366 * rig.Day)
	rig.RunJobs(t, r)
	if n := len(rig.Rotations(t, c, id)); n != 26 {
		t.Errorf("%d rotations after a year", n)
	}
}

// TestRotationsAtOnce: of rotations at the same time each is done whole or
// refused, and the jobs of one period rotate once.
func TestRotationsAtOnce(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	id := rig.NewKey(t, c, &kms.CreateKeyInput{})
	first := rig.Seal(t, c, id, "first")
	var wg sync.WaitGroup
	errs := make([]error, 12)
	for i := range errs {
		wg.Go(func() { _, errs[i] = c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &id}) })
	}
	wg.Wait()
	done := 0
	for _, err := range errs {
		switch rig.Code(err) {
		case "":
			done++
		case "ConflictException":
		default:
			t.Errorf("RotateKeyOnDemand: %v", err)
		}
	}
	if n := len(rig.Rotations(t, c, id)); done == 0 || n != done {
		t.Errorf("%d rotations were answered, %d are listed", done, n)
	}
	if _, err := c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &id, RotationPeriodInDays: aws.Int32(90)}); err != nil {
		t.Fatal(err)
	}
	cl.Jump(91 * rig.Day)
	for range 4 {
		wg.Go(func() {
			if err := r.Daemon.RunJobs(ctx); err != nil {
				t.Errorf("RunJobs: %v", err)
			}
		})
	}
	wg.Wait()
	if n := len(rig.Rotations(t, c, id)); n != done+1 {
		t.Errorf("%d rotations when one was due", n-done)
	}
	first.Open(t, c)
}
