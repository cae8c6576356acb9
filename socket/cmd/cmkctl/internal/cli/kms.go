package cli

import (
	"context"
	"errors"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
)

// Texts are values of an enum as they are on the wire.
func Texts[T ~string](values []T) []string {
	list := make([]string, len(values))
	for i, v := range values {
		list[i] = string(v)
	}
	return list
}

// Once is an option of calls that a second try after a lost answer would do twice.
func Once(o *kms.Options) { o.RetryMaxAttempts = 1 }

// OrNil is what the SDK takes for a member that is not given.
func OrNil(text string) *string {
	if text == "" {
		return nil
	}
	return aws.String(text)
}

// APICode reports whether err is an error of the API with one of the codes.
func APICode(err error, codes ...string) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && slices.Contains(codes, api.ErrorCode())
}

// Pages collects the pages of a list to its end.
func Pages[T, Page any](ctx context.Context, more func() bool, next func(context.Context, ...func(*kms.Options)) (Page, error), items func(Page) []T) ([]T, error) {
	all := []T{}
	for more() {
		page, err := next(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, items(page)...)
	}
	return all, nil
}
