package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/rig"
)

const (
	accessKeyID = "AKIAIOSFODNN7EXAMPLE"
	secretKey   = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	backupRole  = "arn:aws:iam::" + rig.Account + ":role/backup"
)

// signedCall is a request on its way to be signed.
type signedCall struct {
	id, secret, region, service string
	at                          time.Time
	header                      map[string]string
	body                        string
}

// sign signs the call and returns a function that sends it, each time as it
// was signed.
func (s signedCall) sign(t *testing.T) func(c *http.Client) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/", strings.NewReader(s.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Amz-Target", "TrentService.Encrypt")
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	for name, value := range s.header {
		req.Header.Set(name, value)
	}
	sum := sha256.Sum256([]byte(s.body))
	cred := aws.Credentials{AccessKeyID: s.id, SecretAccessKey: s.secret}
	if err := v4.NewSigner().SignHTTP(t.Context(), cred, req, hex.EncodeToString(sum[:]), s.service, s.region, s.at); err != nil {
		t.Fatal(err)
	}
	return func(c *http.Client) (int, string) {
		again := req.Clone(t.Context())
		again.Body = io.NopCloser(strings.NewReader(s.body))
		status, _, raw := rig.Do(t, c, again)
		return status, raw
	}
}

func TestAccessKey(t *testing.T) {
	t.Parallel()
	secretFile := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secretFile, []byte(secretKey+"\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	r := rig.New(t, rig.Config{
		World: true, Regions: []string{"eu-west-1"},
		Tables: fmt.Sprintf("[[access_key]]\nid = %q\nsecret_file = %q\nprincipal = %q\n", accessKeyID, secretFile, backupRole),
	})
	root := r.Client("")
	id := rig.NewKey(t, root, &kms.CreateKeyInput{Policy: rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:*"`, ""), rig.Allowing(backupRole, `"kms:Encrypt"`, ""))})

	// The SDK, as any user: the credential says who calls, also of root.
	with := func(keyID, secret string) func(*kms.Options) {
		return func(o *kms.Options) { o.Credentials = credentials.NewStaticCredentialsProvider(keyID, secret, "") }
	}
	service := r.As(t, rig.Stranger, with(accessKeyID, secretKey))
	for range 3 {
		rig.Outcome(t, "signed with the key", rig.EncryptWith(t, service, id), "")
	}
	_, err := service.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
	rig.Outcome(t, "what the role may not", err, rig.Denied)
	_, err = r.As(t, rig.User{}, with(accessKeyID, secretKey)).DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
	rig.Outcome(t, "root as the role", err, rig.Denied)
	rig.Outcome(t, "the wrong secret", rig.EncryptWith(t, r.As(t, rig.User{}, with(accessKeyID, "wrong")), id), "InvalidSignatureException")
	rig.Outcome(t, "another key ID", rig.EncryptWith(t, r.As(t, rig.Stranger, with("AKIAOTHEROTHEROTHER0", secretKey)), id), rig.Denied)
	rig.Outcome(t, "another key ID, of root", rig.EncryptWith(t, r.As(t, rig.User{}, with("AKIAOTHEROTHEROTHER0", secretKey)), id), "")
	if trail := r.AuditTrail(t); !strings.Contains(trail, `:`+accessKeyID+`","arn":"arn:aws:sts::`+rig.Account+`:assumed-role/backup/`+accessKeyID+`"`) ||
		!strings.Contains(trail, `"accessKeyId":"`+accessKeyID+`"`) || !strings.Contains(trail, `"errorCode":"InvalidSignatureException"`) {
		t.Error("the audit trail does not name the access key, or not its refusals")
	}

	good := signedCall{
		id: accessKeyID, secret: secretKey, region: rig.Region, service: "kms", at: time.Now(),
		body: fmt.Sprintf(`{"KeyId":%q,"Plaintext":"eA=="}`, id),
	}
	client := r.HTTPAs(t, rig.Stranger)
	for _, tt := range []struct {
		name   string
		change func(*signedCall)
		status int
		text   string
	}{
		{"good", func(*signedCall) {}, 200, "CiphertextBlob"},
		{"four minutes old", func(s *signedCall) { s.at = s.at.Add(-4 * time.Minute) }, 200, "CiphertextBlob"},
		{"four minutes early", func(s *signedCall) { s.at = s.at.Add(4 * time.Minute) }, 200, "CiphertextBlob"},
		{"six minutes old", func(s *signedCall) { s.at = s.at.Add(-6 * time.Minute) }, 400, "Signature expired"},
		{"six minutes early", func(s *signedCall) { s.at = s.at.Add(6 * time.Minute) }, 400, "Signature not yet current"},
		{"another service", func(s *signedCall) { s.service = "s3" }, 400, "InvalidSignatureException"},
		{"a Region that is not served", func(s *signedCall) { s.region = "ap-south-1" }, 400, "InvalidSignatureException"},
		{"a Region without the key", func(s *signedCall) { s.region = "eu-west-1" }, 400, rig.Denied},
	} {
		call := good
		tt.change(&call)
		if status, body := call.sign(t)(client); status != tt.status || !strings.Contains(body, tt.text) {
			t.Errorf("%s: %d %s", tt.name, status, body)
		}
	}

	// Replays: without a nonce the same user may say the same twice, with one
	// nobody may.
	call := good
	call.at = call.at.Add(time.Second)
	send := call.sign(t)
	for i := range 2 {
		if status, body := send(client); status != 200 {
			t.Errorf("call %d without a nonce: %d %s", i, status, body)
		}
	}
	if status, body := send(r.HTTPAs(t, rig.App)); status != 400 || !strings.Contains(body, "has been used before") {
		t.Errorf("shown by another user: %d %s", status, body)
	}
	call.header = map[string]string{"Amz-Sdk-Invocation-Id": "6a5bd2c1-0000-4000-8000-000000000000"}
	send = call.sign(t)
	if status, body := send(client); status != 200 {
		t.Errorf("with a nonce: %d %s", status, body)
	}
	if status, body := send(client); status != 400 || !strings.Contains(body, "has been used before") {
		t.Errorf("with a nonce, again: %d %s", status, body)
	}

	// The file is read again, and refused if others can read it.
	if err := os.Chmod(secretFile, 0o440); err != nil {
		t.Fatal(err)
	}
	if err := r.Daemon.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "must be 0400") || strings.Contains(err.Error(), secretKey) {
		t.Errorf("a secret that the group can read: %v", err)
	}
	rig.Outcome(t, "after a refused reload", rig.EncryptWith(t, service, id), "")
}
