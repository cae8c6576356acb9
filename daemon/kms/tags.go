package kms

import (
	"context"
	"slices"
	"strings"

	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/paging"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// maxTags is AWS's quota of tags for a key.
const maxTags = 50

func (s methods) TagResource(ctx context.Context, c *journal.Call, in *kmsapi.TagResourceRequest) (*kmsapi.TagResourceResponse, error) {
	tags, err := newTags(in.Tags)
	if err != nil {
		return nil, err
	}
	err = s.change(ctx, c, &access.Demand{KeyID: in.KeyId, Conditions: access.TagConditions(tags)}, func(row *store.Key) error {
		merged := mergeTags(row.Tags, tags)
		if len(merged) > maxTags {
			return kmsapi.Errorf(kmsapi.CodeTagException, "Too many tags")
		}
		row.Tags = merged
		return nil
	})
	return &kmsapi.TagResourceResponse{}, err
}

func (s methods) UntagResource(ctx context.Context, c *journal.Call, in *kmsapi.UntagResourceRequest) (*kmsapi.UntagResourceResponse, error) {
	for _, key := range in.TagKeys {
		if err := checkTagKey(key); err != nil {
			return nil, err
		}
	}
	d := &access.Demand{KeyID: in.KeyId, Conditions: []access.Condition{access.SaysAll("aws:TagKeys", in.TagKeys)}}
	err := s.change(ctx, c, d, func(row *store.Key) error {
		row.Tags = slices.DeleteFunc(slices.Clone(row.Tags), func(t store.Tag) bool { return slices.Contains(in.TagKeys, t.Key) })
		return nil
	})
	return &kmsapi.UntagResourceResponse{}, err
}

func (s methods) ListResourceTags(ctx context.Context, c *journal.Call, in *kmsapi.ListResourceTagsRequest) (*kmsapi.ListResourceTagsResponse, error) {
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId})
	if err != nil {
		return nil, err
	}
	l := paging.ListOf(c, k.ID)
	after, err := l.DecodeMarker(in.Marker)
	if err != nil {
		return nil, err
	}
	tags := k.Tags
	if after != "" {
		i := slices.IndexFunc(tags, func(t store.Tag) bool { return t.Key == after })
		if i < 0 {
			return nil, paging.ErrInvalidMarker()
		}
		tags = tags[i+1:]
	}
	list, next := paging.Page(l, slices.Values(tags), paging.Limit(in.Limit, maxTags), func(t store.Tag) string { return t.Key })
	out := &kmsapi.ListResourceTagsResponse{Tags: []kmsapi.Tag{}, NextMarker: next, Truncated: next != ""}
	for _, t := range list {
		out.Tags = append(out.Tags, kmsapi.Tag{TagKey: t.Key, TagValue: t.Value})
	}
	return out, nil
}

// newTags checks the tags of a request.
func newTags(in []kmsapi.Tag) ([]store.Tag, error) {
	var tags []store.Tag
	for _, t := range in {
		if err := checkTagKey(t.TagKey); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(tags, func(o store.Tag) bool { return o.Key == t.TagKey }) {
			return nil, kmsapi.Errorf(kmsapi.CodeTagException, "Duplicate tag keys")
		}
		tags = append(tags, store.Tag{Key: t.TagKey, Value: t.TagValue})
	}
	if len(tags) > maxTags {
		return nil, kmsapi.Errorf(kmsapi.CodeTagException, "Too many tags")
	}
	return tags, nil
}

func checkTagKey(key string) error {
	if len(key) >= 4 && strings.EqualFold(key[:4], "aws:") {
		return kmsapi.Errorf(kmsapi.CodeTagException, "Tags beginning with aws: are reserved")
	}
	return nil
}

// mergeTags overwrites tags in place and appends new ones.
func mergeTags(old, add []store.Tag) []store.Tag {
	merged := slices.Clone(old)
	for _, t := range add {
		if i := slices.IndexFunc(merged, func(o store.Tag) bool { return o.Key == t.Key }); i >= 0 {
			merged[i] = t
		} else {
			merged = append(merged, t)
		}
	}
	return merged
}
