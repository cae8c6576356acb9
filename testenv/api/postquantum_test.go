package api

import (
	"bytes"
	"crypto/sha3"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv"
	"cmkd/testenv/pqhsm"
	"cmkd/testenv/rig"
)

// TestPostQuantum is a daemon on a token with ML-KEM and ML-DSA.
func TestPostQuantum(t *testing.T) {
	t.Parallel()
	tok := testenv.NewToken(t)
	path, env := pqhsm.New(t, tok.Module)
	c := rig.New(t, rig.Config{Token: tok, Module: path, Env: rig.Variables(env)}).Client("")
	ctx, algorithm := t.Context(), types.EncapsulationAlgorithmSpec("ML_KEM")
	for _, spec := range []types.KeySpec{"ML_KEM_512", "ML_KEM_768", "ML_KEM_1024"} {
		id := rig.NewKey(t, c, &kms.CreateKeyInput{KeySpec: spec, KeyUsage: "ENCAPSULATE_DECAPSULATE"})
		made, err := c.Encapsulate(ctx, &kms.EncapsulateInput{KeyId: &id, EncapsulationAlgorithm: algorithm})
		if err != nil {
			t.Fatalf("%s: Encapsulate: %v", spec, err)
		}
		open := &kms.DecapsulateInput{KeyId: &id, EncapsulationAlgorithm: algorithm, SharedSecretCiphertextBlob: made.SharedSecretCiphertextBlob}
		got, err := c.Decapsulate(ctx, open)
		if err != nil || len(got.SharedSecret) != 32 || !bytes.Equal(got.SharedSecret, made.SharedSecret) {
			t.Errorf("%s: Decapsulate: %v", spec, err)
		}
		open.SharedSecretCiphertextBlob = open.SharedSecretCiphertextBlob[1:]
		wantCode("InvalidCiphertextException").check(t, rig.ErrOf(c.Decapsulate(ctx, open)))
	}
	for _, spec := range []types.KeySpec{"ML_DSA_44", "ML_DSA_65", "ML_DSA_87"} {
		_, err := c.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: spec, KeyUsage: types.KeyUsageTypeSignVerify, Origin: types.OriginTypeExternal})
		wantError("UnsupportedOperationException", "Origin EXTERNAL is not supported for KeySpec "+string(spec)+".").check(t, err)
		id := rig.NewKey(t, c, &kms.CreateKeyInput{KeySpec: spec, KeyUsage: types.KeyUsageTypeSignVerify})
		meta, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &id})
		if err != nil || string(meta.KeyMetadata.CustomerMasterKeySpec) != string(spec) { //nolint:staticcheck // older clients read it
			t.Errorf("%s: CustomerMasterKeySpec of DescribeKey: %+v, %v", spec, meta, err)
		}
		public, err := c.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &id})
		if err != nil || string(public.CustomerMasterKeySpec) != string(spec) { //nolint:staticcheck // older clients read it
			t.Errorf("%s: CustomerMasterKeySpec of GetPublicKey: %+v, %v", spec, public, err)
		}
		sign := &kms.SignInput{KeyId: &id, SigningAlgorithm: "ML_DSA_SHAKE_256", MessageType: types.MessageTypeRaw, Message: aMessage}
		made, err := c.Sign(ctx, sign)
		if err != nil {
			t.Fatalf("%s: Sign: %v", spec, err)
		}
		verify := &kms.VerifyInput{KeyId: &id, SigningAlgorithm: sign.SigningAlgorithm, Message: aMessage, Signature: made.Signature}
		if out, err := c.Verify(ctx, verify); err != nil || !out.SignatureValid {
			t.Errorf("%s: Verify: %v", spec, err)
		}
		verify.Message = append(bytes.Clone(aMessage), 0)
		wantCode("KMSInvalidSignatureException").check(t, rig.ErrOf(c.Verify(ctx, verify)))
		sign.MessageType, sign.Message = "EXTERNAL_MU", make([]byte, 64)
		refused := rig.ErrOf(c.Sign(ctx, sign))
		if rig.Code(refused) != "UnsupportedOperationException" || !strings.Contains(rig.Message(refused), "PKCS#11 3.2 has no mechanism that signs an external mu") {
			t.Errorf("%s: Sign of an external mu: %v", spec, refused)
		}
		verify.MessageType, verify.Message = "EXTERNAL_MU", externalMu(t, public.PublicKey, aMessage)
		if out, err := c.Verify(ctx, verify); err != nil || !out.SignatureValid {
			t.Errorf("%s: Verify of an external mu: %v", spec, err)
		}
		verify.Message[0] ^= 1
		wantCode("KMSInvalidSignatureException").check(t, rig.ErrOf(c.Verify(ctx, verify)))
		verify.Message = verify.Message[1:]
		wantCode("ValidationException").check(t, rig.ErrOf(c.Verify(ctx, verify)))
	}
}

// externalMu is the message representative of a message without a context (FIPS
// 204, algorithm 7, step 6), by the key in a SubjectPublicKeyInfo.
func externalMu(t *testing.T, public, message []byte) []byte {
	t.Helper()
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(public, &info); err != nil {
		t.Fatal(err)
	}
	h := sha3.NewSHAKE256()
	for _, b := range [][]byte{sha3.SumSHAKE256(info.Key.Bytes, 64), {0, 0}, message} {
		_, _ = h.Write(b)
	}
	mu := make([]byte, 64)
	_, _ = h.Read(mu)
	return mu
}
