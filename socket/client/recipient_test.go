package client

import (
	"bytes"
	"errors"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
)

func newTestClient(t *testing.T, s *service, opts ...Option) *EnvelopeClient {
	t.Helper()
	c, err := NewEnvelopeClient(s.start(t), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func code(err error) string {
	var apiErr smithy.APIError
	if errors.As(err, &apiErr) {
		return apiErr.ErrorCode()
	}
	return ""
}

func TestRecipientIsUnnoticed(t *testing.T) {
	t.Parallel()
	for _, bits := range []int{2048, 3072, 4096} {
		s := newService()
		c := newTestClient(t, s, WithRecipientBits(bits))
		ctx := t.Context()

		key, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: aws.String("alias/x"), KeySpec: types.DataKeySpecAes256})
		if err != nil {
			t.Fatal(err)
		}
		opened, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: key.CiphertextBlob})
		if err != nil {
			t.Fatal(err)
		}
		if len(key.Plaintext) != 32 || !bytes.Equal(key.Plaintext, opened.Plaintext) {
			t.Errorf("%d bits: data key of %d bytes does not come back", bits, len(key.Plaintext))
		}
		if key.CiphertextForRecipient != nil || opened.CiphertextForRecipient != nil {
			t.Error("CiphertextForRecipient is left in an answer")
		}

		pair, err := c.GenerateDataKeyPair(ctx, &kms.GenerateDataKeyPairInput{KeyId: aws.String("alias/x"), KeyPairSpec: types.DataKeyPairSpecRsa4096})
		if err != nil {
			t.Fatal(err)
		}
		opened, err = c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: pair.PrivateKeyCiphertextBlob})
		if err != nil {
			t.Fatal(err)
		}
		if len(pair.PrivateKeyPlaintext) != 2375 || !bytes.Equal(pair.PrivateKeyPlaintext, opened.Plaintext) {
			t.Errorf("%d bits: private key of %d bytes does not come back", bits, len(pair.PrivateKeyPlaintext))
		}

		for _, n := range []int32{1, 15, 190, 191, 1024} {
			r, err := c.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: &n})
			if err != nil || len(r.Plaintext) != int(n) {
				t.Errorf("%d random bytes: %v, %v", n, r, err)
			}
		}
		shared, err := c.DeriveSharedSecret(ctx, &kms.DeriveSharedSecretInput{
			KeyId: aws.String("alias/x"), KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh, PublicKey: []byte{0},
		})
		if err != nil || len(shared.SharedSecret) != 66 {
			t.Errorf("shared secret: %v, %v", shared, err)
		}
		for _, r := range s.seen() {
			if r.Recipient == nil || r.Recipient.KeyEncryptionAlgorithm != "RSAES_OAEP_SHA_256" {
				t.Errorf("%s without the recipient: %+v", r.Operation, r.Recipient)
			}
		}
	}
}

func TestRecipientLeavesTheCallersInputAlone(t *testing.T) {
	t.Parallel()
	s := newService()
	c := newTestClient(t, s)
	in := &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(8)}
	if _, err := c.GenerateRandom(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if in.Recipient != nil {
		t.Error("the caller's input was changed")
	}

	key, err := newRecipientKey(2048)
	if err != nil {
		t.Fatal(err)
	}
	in.Recipient = &types.RecipientInfo{AttestationDocument: key.public, KeyEncryptionAlgorithm: types.KeyEncryptionMechanismRsaesOaepSha256}
	out, err := c.GenerateRandom(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if out.Plaintext != nil || out.CiphertextForRecipient == nil {
		t.Error("the caller's own recipient was replaced")
	}
	if plain, err := key.open(out.CiphertextForRecipient, types.KeyEncryptionMechanismRsaesOaepSha256); err != nil || len(plain) != 8 {
		t.Errorf("%d bytes, %v", len(plain), err)
	}
	if _, err := c.ListKeys(t.Context(), &kms.ListKeysInput{}); err != nil {
		t.Errorf("an operation without a recipient: %v", err)
	}
}

func TestTokenWithSHA1Only(t *testing.T) {
	t.Parallel()
	s := newService()
	s.algorithms = []string{"RSAES_OAEP_SHA_1"}
	c := newTestClient(t, s)
	for _, n := range []int32{32, 1000} {
		out, err := c.GenerateRandom(t.Context(), &kms.GenerateRandomInput{NumberOfBytes: &n})
		if err != nil || len(out.Plaintext) != int(n) {
			t.Fatalf("%d bytes: %v, %v", n, out, err)
		}
	}
	var asked []string
	for _, r := range s.seen() {
		asked = append(asked, r.Recipient.KeyEncryptionAlgorithm)
	}
	if len(asked) != 3 || asked[0] != "RSAES_OAEP_SHA_256" || asked[1] != "RSAES_OAEP_SHA_1" || asked[2] != "RSAES_OAEP_SHA_1" {
		t.Errorf("asked for %q, want one attempt with SHA-256", asked)
	}
}

func TestErrorsOfOtherCausesAreReturned(t *testing.T) {
	t.Parallel()
	s := newService()
	c := newTestClient(t, s)
	bad := &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(2000)}
	if _, err := c.GenerateRandom(t.Context(), bad); code(err) != "ValidationException" {
		t.Errorf("got %v", err)
	}
	if n := len(s.seen()); n != 2 {
		t.Errorf("%d attempts, want 2: the algorithm was not known yet", n)
	}
	if _, err := c.GenerateRandom(t.Context(), &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(20)}); err != nil {
		t.Fatal(err)
	}
	s.seen()
	if _, err := c.GenerateRandom(t.Context(), bad); code(err) != "ValidationException" {
		t.Errorf("got %v", err)
	}
	if n := len(s.seen()); n != 1 {
		t.Errorf("%d attempts, want 1: SHA-256 works", n)
	}
	if _, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: random(100)}); code(err) != "InvalidCiphertextException" {
		t.Errorf("got %v", err)
	}
}

func TestPlainClient(t *testing.T) {
	t.Parallel()
	s := newService()
	s.plaintext = true
	c := New(s.start(t), WithRegion("eu-central-1"))
	out, err := c.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: aws.String("alias/x"), KeySpec: types.DataKeySpecAes256})
	if err != nil || len(out.Plaintext) != 32 {
		t.Fatalf("%v, %v", out, err)
	}
	if r := s.seen(); r[0].Recipient != nil || r[0].Region != "eu-central-1" {
		t.Errorf("sent %+v", r)
	}
}

func TestWithoutARegionTheDaemonChooses(t *testing.T) {
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	s := newService()
	path := s.start(t)
	for _, want := range []string{"", "eu-west-2"} {
		t.Setenv("AWS_REGION", want)
		if _, err := New(path).ListKeys(t.Context(), &kms.ListKeysInput{}); err != nil {
			t.Fatal(err)
		}
		if r := s.seen(); r[0].Region != want {
			t.Errorf("Region %q, want %q", r[0].Region, want)
		}
	}
}

func TestOpenRefusesWhatIsNotForTheKey(t *testing.T) {
	t.Parallel()
	key, err := processKey(2048)
	if err != nil {
		t.Fatal(err)
	}
	sha256 := types.KeyEncryptionMechanismRsaesOaepSha256
	short := wrapTo(&key.private.PublicKey, string(sha256), random(32))
	long := wrapTo(&key.private.PublicKey, string(sha256), random(1000))
	badKEK := append(wrapTo(&key.private.PublicKey, string(sha256), random(16)), long[256:]...)
	for name, c := range map[string][]byte{
		"empty":           nil,
		"cut":             short[:255],
		"altered":         flip(short, 100),
		"one byte more":   append(bytes.Clone(short), 0),
		"KWP cut":         long[:len(long)-8],
		"KWP altered":     flip(long, 300),
		"KEK altered":     flip(long, 100),
		"KEK of 16 bytes": badKEK,
	} {
		if p, err := key.open(c, sha256); !errors.Is(err, errNotOpened) || p != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := key.open(short, oaepSHA1); !errors.Is(err, errNotOpened) {
		t.Errorf("wrong hash: %v", err)
	}
	if _, err := NewRecipient(1024); err == nil {
		t.Error("a recipient key of 1024 bits")
	}
}

func flip(b []byte, i int) []byte {
	c := bytes.Clone(b)
	c[i] ^= 1
	return c
}

func FuzzOpenForRecipient(f *testing.F) {
	key, err := processKey(2048)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wrapTo(&key.private.PublicKey, "RSAES_OAEP_SHA_256", random(32)))
	f.Add(wrapTo(&key.private.PublicKey, "RSAES_OAEP_SHA_256", random(300)))
	f.Fuzz(func(_ *testing.T, c []byte) {
		_, _ = key.open(c, types.KeyEncryptionMechanismRsaesOaepSha256)
	})
}
