package scale

import (
	"context"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/kms"
)

// encrypt makes a call and returns its request ID.
func encrypt(ctx context.Context, c *kms.Client, id string) (string, error) {
	out, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &id, Plaintext: []byte("text")})
	if err != nil {
		return "", err
	}
	request, _ := awsmiddleware.GetRequestIDMetadata(out.ResultMetadata)
	return request, nil
}

func listKeys(t *testing.T, c *kms.Client) []string {
	t.Helper()
	var ids []string
	pages := kms.NewListKeysPaginator(c, &kms.ListKeysInput{Limit: aws.Int32(1000)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range page.Keys {
			ids = append(ids, *k.KeyId)
		}
	}
	return ids
}
