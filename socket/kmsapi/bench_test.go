package kmsapi_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"cmkd/socket/kmsapi"
)

const exampleARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

// BenchmarkDecodeEncrypt reads an Encrypt of 4 KiB, the largest there is.
func BenchmarkDecodeEncrypt(b *testing.B) {
	body := []byte(`{"KeyId":"` + exampleARN + `","EncryptionContext":{"purpose":"benchmark"},"Plaintext":"` + base64.StdEncoding.EncodeToString(make([]byte, 4096)) + `"}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		var in kmsapi.EncryptRequest
		if err := in.Decode(body); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAppendEncrypt writes the answer to it.
func BenchmarkAppendEncrypt(b *testing.B) {
	out := kmsapi.EncryptResponse{KeyId: exampleARN, CiphertextBlob: make([]byte, 4096+128), EncryptionAlgorithm: kmsapi.EncryptionAlgorithmSpecSymmetricDefault}
	b.SetBytes(int64(len(out.AppendJSON(nil))))
	b.ReportAllocs()
	for b.Loop() {
		out.AppendJSON(nil)
	}
}

// BenchmarkDecodePutKeyPolicy reads a policy of 128 KiB, the largest there is.
func BenchmarkDecodePutKeyPolicy(b *testing.B) {
	body := []byte(`{"KeyId":"` + exampleARN + `","Policy":"` + strings.Repeat("x", 131072) + `"}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		var in kmsapi.PutKeyPolicyRequest
		if err := in.Decode(body); err != nil {
			b.Fatal(err)
		}
	}
}
