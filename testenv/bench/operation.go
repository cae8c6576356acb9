package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// operation is a row of the table.
type operation struct {
	name string
	raw  string // the same for rawtoken
	// key has the parameters of CreateKey.
	key map[string]any
	// call is the API's operation, body its parameters without the key's.
	call string
	body map[string]any
}

var operations = []operation{
	{
		name: "AES-GCM 32 B", raw: "gcm-32", key: spec("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"),
		call: "Encrypt", body: map[string]any{"Plaintext": zeros(32)},
	},
	{
		name: "AES-GCM 4 KiB", raw: "gcm-4096", key: spec("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"),
		call: "Encrypt", body: map[string]any{"Plaintext": zeros(4096)},
	},
	{
		name: "wrapped data key", raw: "data-key", key: spec("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"),
		call: "GenerateDataKeyWithoutPlaintext", body: map[string]any{"KeySpec": "AES_256"},
	},
	{
		name: "HMAC-SHA-256 32 B", raw: "hmac", key: spec("HMAC_256", "GENERATE_VERIFY_MAC"),
		call: "GenerateMac", body: map[string]any{"Message": zeros(32), "MacAlgorithm": "HMAC_SHA_256"},
	},
	{
		name: "sign P-256", raw: "p256", key: spec("ECC_NIST_P256", "SIGN_VERIFY"),
		call: "Sign", body: digest("ECDSA_SHA_256"),
	},
	{
		name: "sign Ed25519 32 B", raw: "ed25519", key: spec("ECC_NIST_EDWARDS25519", "SIGN_VERIFY"),
		call: "Sign", body: map[string]any{"Message": zeros(32), "SigningAlgorithm": "ED25519_SHA_512"},
	},
	{
		name: "sign RSA-2048", raw: "rsa-2048", key: spec("RSA_2048", "SIGN_VERIFY"),
		call: "Sign", body: digest("RSASSA_PKCS1_V1_5_SHA_256"),
	},
}

func spec(spec, usage string) map[string]any {
	return map[string]any{"KeySpec": spec, "KeyUsage": usage}
}

func digest(algorithm string) map[string]any {
	return map[string]any{"Message": zeros(32), "MessageType": "DIGEST", "SigningAlgorithm": algorithm}
}

func zeros(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }

// prepare makes the key and returns the bytes of a request.
func (op *operation) prepare(ctx context.Context, s *server) ([]byte, error) {
	var made struct{ KeyMetadata struct{ KeyId string } }
	if err := s.call(ctx, "CreateKey", op.key, &made); err != nil {
		return nil, fmt.Errorf("creating a key: %w", err)
	}
	body := map[string]any{"KeyId": made.KeyMetadata.KeyId}
	for k, v := range op.body {
		body[k] = v
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return request(op.call, text), nil
}

// request is an HTTP request as the AWS SDK for Go sends it, but for the
// signature, which the daemon does not check.
func request(call string, body []byte) []byte {
	return fmt.Appendf(nil, "POST / HTTP/1.1\r\n"+
		"Host: localhost\r\n"+
		"User-Agent: aws-sdk-go-v2/1.41.1 ua/2.1 os/linux lang/go#1.26 md/GOOS#linux md/GOARCH#amd64 api/kms#1.49.5 m/E,g\r\n"+
		"Content-Length: %d\r\n"+
		"Amz-Sdk-Invocation-Id: 1f2f1f9c-2a3f-4ad0-9f0e-0d7b7c1ac6a5\r\n"+
		"Amz-Sdk-Request: attempt=1; max=3\r\n"+
		"Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/us-east-1/kms/aws4_request, "+
		"SignedHeaders=amz-sdk-invocation-id;amz-sdk-request;content-length;content-type;host;x-amz-date;x-amz-target, "+
		"Signature=0000000000000000000000000000000000000000000000000000000000000000\r\n"+
		"Content-Type: application/x-amz-json-1.1\r\n"+
		"X-Amz-Date: 20260101T000000Z\r\n"+
		"X-Amz-Target: TrentService.%s\r\n"+
		"Accept-Encoding: gzip\r\n"+
		"\r\n%s", len(body), call, body)
}
