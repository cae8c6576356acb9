package client_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/socket/client"
)

// lateReader is a transport that looks at the body of a request once more after the SDK has
// closed it, as net/http may.
type lateReader struct{ body io.ReadCloser }

func (r *lateReader) Do(req *http.Request) (*http.Response, error) {
	r.body = req.Body
	if _, err := io.CopyN(io.Discard, req.Body, req.ContentLength); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}"))}, nil
}

func TestPlainBody(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options []func(*kms.Options)
		want    error
	}{
		"the SDK as it is": {[]func(*kms.Options){func(o *kms.Options) { o.APIOptions = nil }}, io.EOF},
		"with PlainBody":   {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var late lateReader
			sdk := kms.NewFromConfig(client.Config("/nowhere", client.WithRegion("eu-central-1")),
				append(c.options, func(o *kms.Options) { o.HTTPClient = &late })...)
			if _, err := sdk.Encrypt(t.Context(), &kms.EncryptInput{KeyId: aws.String("alias/a"), Plaintext: []byte("plaintext")}); err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, late.body); n != 0 || err != c.want { //nolint:errorlint // what net/http compares, too
				t.Errorf("reading on gives %d bytes and %v, want 0 and %v", n, err, c.want)
			}
		})
	}
}
