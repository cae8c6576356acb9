package rig

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
)

// ARN is the ARN of a key or alias of the first Region.
func ARN(resource string) string {
	return "arn:aws:kms:" + Region + ":" + Account + ":" + resource
}

// Message is the message of an API error, "" for nil.
func Message(err error) string {
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok || e.ErrorMessage() == noMessageSent {
		return ""
	}
	return e.ErrorMessage()
}

// noMessageSent is what the SDK says where a body has no message.
const noMessageSent = "UnknownError"

// ErrOf drops the answer of a call.
func ErrOf[T any](_ T, err error) error { return err }

// State is KeyState, or the code of the error.
func State(t *testing.T, c *kms.Client, id string) string {
	t.Helper()
	out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
	if err != nil {
		return Code(err)
	}
	return string(out.KeyMetadata.KeyState)
}

// DeletionsHeld reports whether the daemon says that it holds deletions.
func DeletionsHeld(t *testing.T, r *Rig) bool {
	t.Helper()
	out, _ := Cmkctl(t, r, "status")
	return strings.Contains(out, "deletions  held")
}

// Code is the error code of an API error, "" for nil.
func Code(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return err.Error()
}

// NewKey makes a key and returns its ID.
func NewKey(t testing.TB, c *kms.Client, in *kms.CreateKeyInput) string {
	t.Helper()
	out, err := c.CreateKey(t.Context(), in)
	if err != nil {
		t.Fatalf("CreateKey: %v", err)
	}
	return *out.KeyMetadata.KeyId
}

// Sealed is a ciphertext and what it should open to.
type Sealed struct {
	Blob, Plaintext []byte
	Material        string
}

// Seal encrypts under the key as it is now.
func Seal(t *testing.T, c *kms.Client, id, text string) Sealed {
	t.Helper()
	out, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: []byte(text)})
	if err != nil {
		t.Fatalf("Encrypt: %v", err)
	}
	s := Sealed{Blob: out.CiphertextBlob, Plaintext: []byte(text)}
	s.Material = s.Open(t, c)
	return s
}

// Open decrypts and returns the key material ID that the answer names.
func (s *Sealed) Open(t *testing.T, c *kms.Client) string {
	t.Helper()
	out, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: s.Blob})
	if err != nil || !bytes.Equal(out.Plaintext, s.Plaintext) {
		t.Fatalf("Decrypt of %q: %v", s.Plaintext, err)
	}
	return aws.ToString(out.KeyMaterialId)
}

// Current is the key's CurrentKeyMaterialId.
func Current(t *testing.T, c *kms.Client, id string) string {
	t.Helper()
	out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
	if err != nil {
		t.Fatalf("DescribeKey: %v", err)
	}
	return aws.ToString(out.KeyMetadata.CurrentKeyMaterialId)
}

// Rotations are all of the key's, of several pages.
func Rotations(t *testing.T, c *kms.Client, id string) []types.RotationsListEntry {
	t.Helper()
	var all []types.RotationsListEntry
	pages := kms.NewListKeyRotationsPaginator(c, &kms.ListKeyRotationsInput{KeyId: &id, Limit: aws.Int32(7)})
	for pages.HasMorePages() {
		out, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatalf("ListKeyRotations: %v", err)
		}
		all = append(all, out.Rotations...)
	}
	return all
}
