package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/socket/client/envelope"
)

func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	s := newService()
	c := newTestClient(t, s)
	ec := map[string]string{"purpose": "test", "Ünïcode": "✓"}
	for _, n := range []int{0, 1, 1000, 300000} {
		plaintext := random(n)
		sealed, err := c.Seal(t.Context(), "alias/x", plaintext, ec)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"", "alias/x"} {
			// The envelope knows its encryption context.
			opened, err := c.Open(t.Context(), key, sealed, nil)
			if err != nil || !bytes.Equal(opened, plaintext) {
				t.Fatalf("%d bytes: %d, %v", n, len(opened), err)
			}
		}
		if _, err := c.Open(t.Context(), "", sealed, map[string]string{"purpose": "other"}); !errors.Is(err, envelope.ErrContext) {
			t.Errorf("other context: %v", err)
		}
		for _, r := range s.seen() {
			if r.Operation == "GenerateDataKey" && r.KeyId != "alias/x" {
				t.Errorf("sealed under %q", r.KeyId)
			}
		}
	}
}

// TestSeveralKeys: each of the keys opens the envelope, if another one fails too.
func TestSeveralKeys(t *testing.T) {
	t.Parallel()
	first, second := newService(), newService()
	a, b := newTestClient(t, first), newTestClient(t, second)
	// A client of two daemons: what the second encrypts is for the second only.
	keys := a.Keyring("alias/x", "arn:aws:kms:eu-west-1:000000000000:key/escrow")
	keys.Client = twoDaemons{regionalClient: regionalClient{a.Client}, second: regionalClient{b.Client}}
	var sealed bytes.Buffer
	w, err := envelope.NewWriter(t.Context(), &sealed, keys, envelope.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*EnvelopeClient{"first": a, "second": b} {
		if got, err := c.Open(t.Context(), "", sealed.Bytes(), nil); err != nil || string(got) != "hello" {
			t.Errorf("by the %s: %q, %v", name, got, err)
		}
	}
	other := newTestClient(t, newService())
	if _, err := other.Open(t.Context(), "", sealed.Bytes(), nil); code(err) != "InvalidCiphertextException" || strings.Count(err.Error(), "key arn:") != 2 {
		t.Errorf("by neither: %v", err)
	}
	seen := second.seen()
	if len(seen) == 0 || seen[0].Operation != "Encrypt" || seen[0].Region != "eu-west-1" {
		t.Errorf("the second key was asked %+v", seen)
	}
}

// twoDaemons has the second one encrypt.
type twoDaemons struct {
	regionalClient

	second regionalClient
}

func (c twoDaemons) Encrypt(ctx context.Context, in *kms.EncryptInput, options ...func(*kms.Options)) (*kms.EncryptOutput, error) {
	return c.second.Encrypt(ctx, in, options...)
}

func Example() {
	c, err := NewEnvelopeClient("") // the default socket
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	sealed, err := c.Seal(ctx, "alias/app", []byte("hello"), map[string]string{"table": "users"})
	if err != nil {
		panic(err)
	}
	_, _ = c.Open(ctx, "alias/app", sealed, map[string]string{"table": "users"})
}

func ExampleEnvelopeClient_SealWriter() {
	c, err := NewEnvelopeClient("")
	if err != nil {
		panic(err)
	}
	var dst bytes.Buffer // or a file
	w, err := c.SealWriter(context.Background(), &dst, []string{"alias/app"}, envelope.Options{})
	if err != nil {
		panic(err)
	}
	if _, err := io.Copy(w, strings.NewReader("as long as you like")); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil { // without it the envelope is cut
		panic(err)
	}
}

// A library that takes an SDK client or configuration works with a Recipient
// attached to it.
func ExampleRecipient_Attach() {
	recipient, err := NewRecipient(2048)
	if err != nil {
		panic(err)
	}
	c := kms.NewFromConfig(Config("/run/cmkd/cmkd.sock", WithRegion("eu-central-1")), recipient.Attach)
	out, err := c.GenerateDataKey(context.Background(), &kms.GenerateDataKeyInput{KeyId: aws.String("alias/app"), NumberOfBytes: aws.Int32(64)})
	if err != nil {
		panic(err)
	}
	defer clear(out.Plaintext)
}
