package api

import (
	"context"
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// testMarkers: a marker goes with the list that it came from, and with no other:
// of another operation, key, principal or Region.
func testMarkers(t *testing.T, a *api) {
	retirers := map[*string]string{}
	listedIn := func(c *kms.Client) *string {
		retirer := accountUser(fmt.Sprintf("marked%d", len(retirers)))
		id := listed(t, c, retirer)
		retirers[id] = retirer
		return id
	}
	keys := []*string{listedIn(a.Client), listedIn(a.Client)}
	there := []*string{listedIn(a.other), listedIn(a.other)}
	type listing struct {
		name string
		next func(marker *string) (*string, error)
	}
	var lists []listing
	add := func(name string, next func(marker *string) (*string, error)) {
		lists = append(lists, listing{name, next})
	}
	ctx, one := t.Context(), aws.Int32(1)
	for _, r := range []struct {
		name   string
		client *kms.Client
		keys   []*string
	}{{"", a.Client, keys}, {" there", a.other, there}} {
		add("ListKeys"+r.name, func(marker *string) (*string, error) {
			out, err := r.client.ListKeys(ctx, &kms.ListKeysInput{Limit: one, Marker: marker})
			if err != nil {
				return nil, err
			}
			return out.NextMarker, nil
		})
		add("ListAliases"+r.name, func(marker *string) (*string, error) {
			out, err := r.client.ListAliases(ctx, &kms.ListAliasesInput{Limit: one, Marker: marker})
			if err != nil {
				return nil, err
			}
			return out.NextMarker, nil
		})
		for i, id := range r.keys {
			of := fmt.Sprintf("%s of key %d", r.name, i)
			add("ListAliases"+of, func(marker *string) (*string, error) {
				out, err := r.client.ListAliases(ctx, &kms.ListAliasesInput{KeyId: id, Limit: one, Marker: marker})
				if err != nil {
					return nil, err
				}
				return out.NextMarker, nil
			})
			add("ListGrants"+of, func(marker *string) (*string, error) {
				out, err := r.client.ListGrants(ctx, &kms.ListGrantsInput{KeyId: id, Limit: one, Marker: marker})
				if err != nil {
					return nil, err
				}
				return out.NextMarker, nil
			})
			add("ListResourceTags"+of, func(marker *string) (*string, error) {
				out, err := r.client.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: id, Limit: one, Marker: marker})
				if err != nil {
					return nil, err
				}
				return out.NextMarker, nil
			})
			add("ListKeyRotations"+of, func(marker *string) (*string, error) {
				out, err := r.client.ListKeyRotations(ctx, &kms.ListKeyRotationsInput{
					KeyId: id, IncludeKeyMaterial: types.IncludeKeyMaterialAllKeyMaterial, Limit: one, Marker: marker,
				})
				if err != nil {
					return nil, err
				}
				return out.NextMarker, nil
			})
			add("ListRetirableGrants"+of, func(marker *string) (*string, error) {
				out, err := r.client.ListRetirableGrants(ctx, &kms.ListRetirableGrantsInput{
					RetiringPrincipal: aws.String(retirers[id]), Limit: one, Marker: marker,
				})
				if err != nil {
					return nil, err
				}
				return out.NextMarker, nil
			})
		}
	}
	for _, from := range lists {
		marker, err := from.next(nil)
		if err != nil || marker == nil {
			t.Fatalf("%s: the marker is %v, %v", from.name, marker, err)
		}
		for _, to := range lists {
			want := wantCode("InvalidMarkerException")
			if from.name == to.name {
				want = wantOK()
			}
			t.Run(from.name+" in "+to.name, func(t *testing.T) {
				_, err := to.next(marker)
				want.check(t, err)
			})
		}
	}
}

// listed makes a key of which every list has two entries.
func listed(t *testing.T, c *kms.Client, retirer string) *string {
	t.Helper()
	made, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{Tags: tags("a", "1", "b", "2")})
	if err != nil {
		t.Fatal(err)
	}
	id := made.KeyMetadata.KeyId
	for i := range 2 {
		if _, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String(fmt.Sprintf("alias/marked-%d-%s", i, *id)), TargetKeyId: id}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.CreateGrant(t.Context(), &kms.CreateGrantInput{
			KeyId: id, GranteePrincipal: aws.String(someone), RetiringPrincipal: &retirer,
			Operations: []types.GrantOperation{"Decrypt"},
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: id}); err != nil {
		t.Fatal(err)
	}
	return id
}

// testLimits: how long a page may be, as the API reference has it of each list.
func testLimits(t *testing.T, a *api) {
	id := a.symmetric(t)
	for name, l := range map[string]struct {
		most int32
		list func(ctx context.Context, limit *int32) error
	}{
		"ListKeys": {1000, func(ctx context.Context, limit *int32) error {
			return rig.ErrOf(a.ListKeys(ctx, &kms.ListKeysInput{Limit: limit}))
		}},
		"ListKeyPolicies": {1000, func(ctx context.Context, limit *int32) error {
			return rig.ErrOf(a.ListKeyPolicies(ctx, &kms.ListKeyPoliciesInput{KeyId: id, Limit: limit}))
		}},
		"ListKeyRotations": {1000, func(ctx context.Context, limit *int32) error {
			return rig.ErrOf(a.ListKeyRotations(ctx, &kms.ListKeyRotationsInput{KeyId: id, Limit: limit}))
		}},
		"ListAliases": {100, func(ctx context.Context, limit *int32) error {
			return rig.ErrOf(a.ListAliases(ctx, &kms.ListAliasesInput{Limit: limit}))
		}},
		"ListGrants": {100, func(ctx context.Context, limit *int32) error {
			return rig.ErrOf(a.ListGrants(ctx, &kms.ListGrantsInput{KeyId: id, Limit: limit}))
		}},
		"ListRetirableGrants": {100, func(ctx context.Context, limit *int32) error {
			return rig.ErrOf(a.ListRetirableGrants(ctx, &kms.ListRetirableGrantsInput{RetiringPrincipal: aws.String(someone), Limit: limit}))
		}},
		"ListResourceTags": {50, func(ctx context.Context, limit *int32) error {
			return rig.ErrOf(a.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: id, Limit: limit}))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantOK().check(t, l.list(t.Context(), &l.most))
			validation(fmt.Sprintf("1 validation error detected: Value '%d' at 'limit' failed to satisfy constraint: Member must have value less than or equal to %d",
				l.most+1, l.most)).check(t, l.list(t.Context(), aws.Int32(l.most+1)))
			validation("1 validation error detected: Value '0' at 'limit' failed to satisfy constraint: Member must have value greater than or equal to 1").
				check(t, l.list(t.Context(), aws.Int32(0)))
		})
	}
}
