package cli

import (
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
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
