package kmsapi_test

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"cmkd/socket/kmsapi"
)

// TestWipe fills the blobs of each structure of the API: Wipe overwrites those whose
// shape the model calls sensitive, and no others.
func TestWipe(t *testing.T) {
	t.Parallel()
	model := readModel(t)
	secrets := 0
	for name, op := range model.Operations {
		i := slices.IndexFunc(kmsapi.Operations, func(o kmsapi.Operation) bool { return o.Name == name })
		for shape, v := range map[string]interface{ Wipe() }{
			op.Input.Shape: kmsapi.Operations[i].NewInput(), op.Output.Shape: kmsapi.Operations[i].NewOutput(),
		} {
			fields := reflect.ValueOf(v).Elem()
			for f := range fields.NumField() {
				if fields.Field(f).Kind() == reflect.Slice && fields.Type().Field(f).Type.Elem().Kind() == reflect.Uint8 {
					fields.Field(f).SetBytes([]byte("secret"))
				}
			}
			v.Wipe()
			for f := range fields.NumField() {
				member := fields.Type().Field(f).Name
				if b, ok := fields.Field(f).Interface().([]byte); ok {
					sensitive := model.Shapes[model.Shapes[shape].Members[member].Shape].Sensitive
					if wiped := bytes.Equal(b, make([]byte, 6)); wiped != sensitive {
						t.Errorf("%s.%s: wiped %t, sensitive %t", shape, member, wiped, sensitive)
					}
					if sensitive {
						secrets++
					}
				}
			}
		}
	}
	if secrets < 13 {
		t.Errorf("only %d members are secret", secrets)
	}
}

// TestSecretsAreEncodedOnce: an answer with secrets is written to one buffer, so that
// none is left behind that nobody wipes.
func TestSecretsAreEncodedOnce(t *testing.T) {
	t.Parallel()
	key := "arn:aws:kms:us-east-1:123456789012:key/12345678-1234-1234-1234-123456789012"
	long := bytes.Repeat([]byte{0xff}, 4096)
	for _, out := range []kmsapi.Output{
		&kmsapi.DecryptResponse{KeyId: key, Plaintext: long, EncryptionAlgorithm: kmsapi.EncryptionAlgorithmSpecRSAESOAEPSHA256, CiphertextForRecipient: long, KeyMaterialId: key},
		&kmsapi.GenerateDataKeyResponse{KeyId: key, Plaintext: long, CiphertextBlob: long, KeyMaterialId: key},
		&kmsapi.GenerateDataKeyPairResponse{KeyId: key, PrivateKeyPlaintext: long, PrivateKeyCiphertextBlob: long, PublicKey: long, KeyPairSpec: kmsapi.DataKeyPairSpecECCNISTEdwards25519, KeyMaterialId: key},
		&kmsapi.GenerateRandomResponse{Plaintext: long},
		&kmsapi.DeriveSharedSecretResponse{KeyId: key, SharedSecret: long, KeyAgreementAlgorithm: kmsapi.KeyAgreementAlgorithmSpecECDH, KeyOrigin: kmsapi.OriginTypeAWSCloudHSM},
		&kmsapi.EncapsulateResponse{KeyId: key, SharedSecret: long, SharedSecretCiphertextBlob: long},
		&kmsapi.DecapsulateResponse{KeyId: key, SharedSecret: long},
	} {
		small := make([]byte, 0, len(out.AppendJSON(nil))-1)
		out.AppendJSON(small)
		if small = small[:cap(small)]; !bytes.Equal(small, make([]byte, len(small))) {
			t.Errorf("%T is begun in a buffer that is too small for it", out)
		}
	}
}
