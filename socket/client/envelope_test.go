package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
)

func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	s := newService()
	c := newTestClient(t, s)
	ec := map[string]string{"purpose": "test", "Ünïcode": "✓"}
	// Around the seams of the segments, of which the first holds 40 bytes less.
	for _, n := range []int{0, 1, 1000, 65480, 65481, 131000, 131016, 131017, 300000} {
		plaintext := random(n)
		envelope, err := c.Seal(t.Context(), "alias/x", plaintext, ec)
		if err != nil {
			t.Fatal(err)
		}
		opened, err := c.Open(t.Context(), "alias/x", envelope, ec)
		if err != nil || !bytes.Equal(opened, plaintext) {
			t.Fatalf("%d bytes: %d, %v", n, len(opened), err)
		}
		if _, err := c.Open(t.Context(), "", envelope, map[string]string{"purpose": "other"}); code(err) != "InvalidCiphertextException" {
			t.Errorf("other context: %v", err)
		}
		for _, r := range s.seen() {
			if r.Operation == "GenerateDataKey" && r.KeyId != "alias/x" {
				t.Errorf("sealed under %q", r.KeyId)
			}
		}
	}
}

func TestAlteredEnvelopes(t *testing.T) {
	t.Parallel()
	c := newTestClient(t, newService())
	const n = 150000
	envelope, err := c.Seal(t.Context(), "alias/x", random(n), nil)
	if err != nil {
		t.Fatal(err)
	}
	open := func(name string, e []byte) {
		t.Helper()
		p, err := c.Open(t.Context(), "", e, nil)
		if !errors.Is(err, ErrEnvelope) && code(err) != "InvalidCiphertextException" {
			t.Errorf("%s: %d bytes, %v", name, len(p), err)
		}
	}
	header := len(envelopeMagic) + 2 + len(testRegion) + 2 + 32 + 28
	for _, i := range []int{0, 3, 4, 5, 6, 7, header - 1, header, header + 1, header + 35, header + 40, header + 41, 65536, 70000, 131072 + header, len(envelope) - 1} {
		open("flipped", flip(envelope, i))
	}
	for _, i := range []int{0, 1, 4, 6, 7, 50, header, header + 1, header + 33, header + 40, header + 41, header + 65536, header + 2*65536, len(envelope) - 17, len(envelope) - 16, len(envelope) - 1} {
		open("cut", envelope[:i])
	}
	open("longer", append(bytes.Clone(envelope), 0))
	other, err := c.Seal(t.Context(), "alias/x", random(n), nil)
	if err != nil {
		t.Fatal(err)
	}
	open("data of another", append(bytes.Clone(envelope[:header]), other[header:]...))
	if _, err := c.Open(t.Context(), "", flip(envelope, 4), nil); err == nil || !strings.Contains(err.Error(), "version 3") {
		t.Errorf("version: %v", err)
	}
}

func TestErrorOfReaderStays(t *testing.T) {
	t.Parallel()
	c := newTestClient(t, newService())
	envelope, err := c.Seal(t.Context(), "alias/x", random(10), nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.OpenReader(t.Context(), bytes.NewReader(flip(envelope, len(envelope)-1)), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if n, err := r.Read(make([]byte, 100)); n != 0 || !errors.Is(err, ErrEnvelope) {
			t.Fatalf("read %d, %v", n, err)
		}
	}
}

func TestErrorsOfSourceAndDestinationAreTold(t *testing.T) {
	t.Parallel()
	c := newTestClient(t, newService())
	envelope, err := c.Seal(t.Context(), "alias/x", random(1<<20), nil)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken pipe")
	for _, at := range []int64{3, 20, 80, 100, 1000, 1 << 19} {
		src := io.MultiReader(io.LimitReader(bytes.NewReader(envelope), at), iotest.ErrReader(broken))
		r, err := c.OpenReader(t.Context(), src, "", nil)
		if err == nil {
			_, err = io.ReadAll(r)
		}
		if !errors.Is(err, broken) || errors.Is(err, ErrEnvelope) {
			t.Errorf("source broke at %d: %v", at, err)
		}
	}
	dst, err := os.Open(os.DevNull) // not for writing
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if _, err := c.SealWriter(t.Context(), dst, "alias/x", nil); err == nil {
		t.Error("wrote to what cannot be written to")
	}
}

// TestGoldenEnvelope opens envelopes made in the past: the format may not change
// under a version.
func TestGoldenEnvelope(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ file, region string }{
		{"testdata/envelope-v1.b64", ""},
		{"testdata/envelope-v2.b64", "eu-west-1"},
	} {
		t.Run(c.file, func(t *testing.T) { openGolden(t, c.file, c.region) })
	}
}

func openGolden(t *testing.T, file, region string) {
	encoded, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(encoded)))
	if err != nil {
		t.Fatal(err)
	}
	header, err := readHeader(bytes.NewReader(envelope))
	if err != nil {
		t.Fatal(err)
	}
	if string(header.dataKey) != "the encrypted data key" || header.region != region {
		t.Errorf("data key %q, Region %q", header.dataKey, header.region)
	}
	stream, err := newStream(goldenKey)
	if err != nil {
		t.Fatal(err)
	}
	r, err := stream.NewDecryptingReader(bytes.NewReader(envelope[len(header.raw):]), header.raw)
	if err != nil {
		t.Fatal(err)
	}
	plaintext, err := io.ReadAll(r)
	if err != nil || string(plaintext) != "the plaintext" {
		t.Errorf("%q, %v", plaintext, err)
	}
}

var goldenKey = bytes.Repeat([]byte{0x2a}, 32)

func FuzzReadHeader(f *testing.F) {
	f.Add([]byte("cmke\x01\x00\x03keyrest"))
	f.Add([]byte("cmke\x02\x09us-east-1\x00\x03keyrest"))
	f.Fuzz(func(t *testing.T, b []byte) {
		header, err := readHeader(bytes.NewReader(b))
		if err == nil && (!bytes.HasPrefix(b, header.raw) || !bytes.HasSuffix(header.raw, header.dataKey)) {
			t.Errorf("header %x of %x", header.raw, b)
		}
	})
}

func Example() {
	c, err := NewEnvelopeClient("") // the default socket
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	envelope, err := c.Seal(ctx, "alias/app", []byte("hello"), map[string]string{"table": "users"})
	if err != nil {
		panic(err)
	}
	_, _ = c.Open(ctx, "alias/app", envelope, map[string]string{"table": "users"})
}

func ExampleEnvelopeClient_SealWriter() {
	c, err := NewEnvelopeClient("")
	if err != nil {
		panic(err)
	}
	var dst bytes.Buffer // or a file
	w, err := c.SealWriter(context.Background(), &dst, "alias/app", nil)
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
