package api

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// page is one page of a list.
type page struct {
	items     []string
	truncated bool
	next      *string
}

// testPaging: every list, two at a time, gives what it gives at once; markers
// come only with Truncated; a marker that is none is refused.
func testPaging(t *testing.T, a *api) {
	id := a.fresh(t, &kms.CreateKeyInput{Tags: tags("a", "1", "b", "2", "c", "3", "d", "4", "e", "5")})
	retiring := aws.String(somePager)
	for i := range 5 {
		name := fmt.Sprintf("alias/page-%d-%s", i, *id)
		if _, err := a.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &name, TargetKeyId: id}); err != nil {
			t.Fatal(err)
		}
		if _, err := a.CreateGrant(t.Context(), &kms.CreateGrantInput{
			KeyId: id, GranteePrincipal: aws.String(someone), RetiringPrincipal: retiring, Operations: []types.GrantOperation{"Decrypt"}, Name: &name,
		}); err != nil {
			t.Fatal(err)
		}
		if i < 3 {
			if _, err := a.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	lists := map[string]struct {
		items int
		list  func(ctx context.Context, limit *int32, marker *string) (page, error)
	}{
		"ListAliases of a key": {5, func(ctx context.Context, limit *int32, marker *string) (page, error) {
			out, err := a.ListAliases(ctx, &kms.ListAliasesInput{KeyId: id, Limit: limit, Marker: marker})
			if err != nil {
				return page{}, err
			}
			return page{each(out.Aliases, func(e types.AliasListEntry) string { return *e.AliasName }), out.Truncated, out.NextMarker}, nil
		}},
		"ListResourceTags": {5, func(ctx context.Context, limit *int32, marker *string) (page, error) {
			out, err := a.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: id, Limit: limit, Marker: marker})
			if err != nil {
				return page{}, err
			}
			return page{each(out.Tags, func(e types.Tag) string { return *e.TagKey }), out.Truncated, out.NextMarker}, nil
		}},
		"ListGrants": {5, func(ctx context.Context, limit *int32, marker *string) (page, error) {
			out, err := a.ListGrants(ctx, &kms.ListGrantsInput{KeyId: id, Limit: limit, Marker: marker})
			if err != nil {
				return page{}, err
			}
			return page{each(out.Grants, func(e types.GrantListEntry) string { return *e.GrantId }), out.Truncated, out.NextMarker}, nil
		}},
		"ListRetirableGrants": {5, func(ctx context.Context, limit *int32, marker *string) (page, error) {
			out, err := a.ListRetirableGrants(ctx, &kms.ListRetirableGrantsInput{RetiringPrincipal: retiring, Limit: limit, Marker: marker})
			if err != nil {
				return page{}, err
			}
			return page{each(out.Grants, func(e types.GrantListEntry) string { return *e.GrantId }), out.Truncated, out.NextMarker}, nil
		}},
		"ListKeyRotations": {3, func(ctx context.Context, limit *int32, marker *string) (page, error) {
			out, err := a.ListKeyRotations(ctx, &kms.ListKeyRotationsInput{KeyId: id, Limit: limit, Marker: marker})
			if err != nil {
				return page{}, err
			}
			return page{each(out.Rotations, func(e types.RotationsListEntry) string { return *e.KeyMaterialId }), out.Truncated, out.NextMarker}, nil
		}},
		"ListKeyPolicies": {1, func(ctx context.Context, limit *int32, marker *string) (page, error) {
			out, err := a.ListKeyPolicies(ctx, &kms.ListKeyPoliciesInput{KeyId: id, Limit: limit, Marker: marker})
			if err != nil {
				return page{}, err
			}
			return page{out.PolicyNames, out.Truncated, out.NextMarker}, nil
		}},
	}
	for name, l := range lists {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, err := l.list(t.Context(), nil, nil)
			if err != nil || len(all.items) != l.items || all.truncated || all.next != nil {
				t.Fatalf("at once: %+v, %v", all, err)
			}
			var collected []string
			var marker *string
			for pages := 0; ; pages++ {
				p, err := l.list(t.Context(), aws.Int32(2), marker)
				if err != nil || pages > 5 {
					t.Fatalf("page %d: %v", pages, err)
				}
				collected = append(collected, p.items...)
				if p.truncated != (p.next != nil) {
					t.Errorf("Truncated is %t, NextMarker %v", p.truncated, p.next)
				}
				if p.truncated && len(p.items) != 2 {
					t.Errorf("a page of %d before the last", len(p.items))
				}
				if marker = p.next; marker == nil {
					break
				}
			}
			if !slices.Equal(collected, all.items) {
				t.Errorf("page by page\n%v, at once\n%v", collected, all.items)
			}
			for _, bad := range []string{"none", "AAAA", "1:", "MTo"} {
				_, err := l.list(t.Context(), nil, &bad)
				wantCode("InvalidMarkerException").check(t, err)
			}
			_, err = l.list(t.Context(), aws.Int32(1001), nil)
			wantCode("ValidationException").check(t, err)
		})
	}
	t.Run("ListKeys", func(t *testing.T) {
		t.Parallel()
		found := false
		var marker *string
		for {
			out, err := a.ListKeys(t.Context(), &kms.ListKeysInput{Limit: aws.Int32(3), Marker: marker})
			if err != nil {
				t.Fatal(err)
			}
			if out.Truncated != (out.NextMarker != nil) || len(out.Keys) > 3 {
				t.Errorf("Truncated is %t, NextMarker %v, %d keys", out.Truncated, out.NextMarker, len(out.Keys))
			}
			for _, k := range out.Keys {
				found = found || *k.KeyId == *id
				if *k.KeyArn != keyARN(k.KeyId) {
					t.Errorf("key %s has the ARN %s", *k.KeyId, *k.KeyArn)
				}
			}
			if marker = out.NextMarker; marker == nil {
				break
			}
		}
		if !found {
			t.Error("a key is not listed")
		}
		_, err := a.ListKeys(t.Context(), &kms.ListKeysInput{Marker: aws.String("none")})
		wantCode("InvalidMarkerException").check(t, err)
	})
}

func each[E any](list []E, f func(E) string) []string {
	out := make([]string, len(list))
	for i, e := range list {
		out[i] = f(e)
	}
	return out
}
