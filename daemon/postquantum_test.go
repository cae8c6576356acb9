package daemon_test

import (
	"bytes"
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
	c := rig.New(t, rig.Config{Token: tok, Module: path, Env: variables(env)}).Client("")
	ctx, algorithm := t.Context(), types.EncapsulationAlgorithmSpec("ML_KEM")
	for _, spec := range []types.KeySpec{"ML_KEM_512", "ML_KEM_768", "ML_KEM_1024"} {
		id := newKey(t, c, &kms.CreateKeyInput{KeySpec: spec, KeyUsage: "ENCAPSULATE_DECAPSULATE"})
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
		wantCode("InvalidCiphertextException").check(t, errOf(c.Decapsulate(ctx, open)))
	}
	for _, spec := range []types.KeySpec{"ML_DSA_44", "ML_DSA_65", "ML_DSA_87"} {
		id := newKey(t, c, &kms.CreateKeyInput{KeySpec: spec, KeyUsage: types.KeyUsageTypeSignVerify})
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
		wantCode("KMSInvalidSignatureException").check(t, errOf(c.Verify(ctx, verify)))
		sign.MessageType, sign.Message = "EXTERNAL_MU", make([]byte, 64)
		wantCode("UnsupportedOperationException").check(t, errOf(c.Sign(ctx, sign)))
	}
}
