package sigv4

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const (
	testID     = "AKIDEXAMPLE"
	testSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	testBody   = `{"KeyId":"alias/x"}`
)

var testTime = time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)

func verifier() *Verifier {
	return &Verifier{
		Service: "kms",
		Secret: func(id string) (string, bool) {
			if id == testID {
				return testSecret, true
			}
			return "", false
		},
		Now: func() time.Time { return testTime },
	}
}

// signing says how the SDK's signer is to sign a request.
type signing struct {
	id, secret, token string
	service, region   string
	at                time.Time
	headers           map[string]string
	body              string
}

func goodSigning() signing {
	return signing{
		id: testID, secret: testSecret, service: "kms", region: "eu-west-1", at: testTime, body: testBody,
		headers: map[string]string{
			"Content-Type":          "application/x-amz-json-1.1",
			"X-Amz-Target":          "TrentService.DescribeKey",
			"Amz-Sdk-Invocation-Id": "6a5bd2c1-0000-4000-8000-000000000000",
			"Amz-Sdk-Request":       "attempt=1;  max=3",
		},
	}
}

// sign has the SDK sign and takes the request off the wire again.
func (s signing) sign(t testing.TB) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, "http://127.0.0.1:4566/", strings.NewReader(s.body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range s.headers {
		r.Header.Set(k, v)
	}
	sum := sha256.Sum256([]byte(s.body))
	creds := aws.Credentials{AccessKeyID: s.id, SecretAccessKey: s.secret, SessionToken: s.token}
	if err := v4.NewSigner().SignHTTP(t.Context(), creds, r, hex.EncodeToString(sum[:]), s.service, s.region, s.at); err != nil {
		t.Fatal(err)
	}
	return overTheWire(t, r)
}

func overTheWire(t testing.TB, r *http.Request) *http.Request {
	t.Helper()
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		t.Fatal(err)
	}
	got, err := http.ReadRequest(bufio.NewReader(&wire))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func verify(t testing.TB, v *Verifier, r *http.Request) (Identity, error) {
	t.Helper()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return v.Verify(r, body)
}

func TestSDKSignatures(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256([]byte(testBody))
	for name, headers := range map[string]map[string]string{
		"Go v2":     goodSigning().headers,
		"boto3":     {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "TrentService.DescribeKey"},
		"Node":      {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "TrentService.DescribeKey", "X-Amz-User-Agent": "aws-sdk-js/3", "X-Amz-Content-Sha256": hex.EncodeToString(sum[:])},
		"no target": {},
	} {
		s := goodSigning()
		s.headers = headers
		id, err := verify(t, verifier(), s.sign(t))
		if err != nil || id.AccessKeyID != testID || id.Region != "eu-west-1" || !id.Date.Equal(testTime) || id.Unique != (name == "Go v2") {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
	for _, body := range []string{"", "{}", strings.Repeat("x", 1<<16)} {
		s := goodSigning()
		s.body = body
		if _, err := verify(t, verifier(), s.sign(t)); err != nil {
			t.Errorf("body of %d bytes: %v", len(body), err)
		}
	}
	for _, skew := range []time.Duration{-5 * time.Minute, 5 * time.Minute} {
		s := goodSigning()
		s.at = testTime.Add(skew)
		if _, err := verify(t, verifier(), s.sign(t)); err != nil {
			t.Errorf("skew %s: %v", skew, err)
		}
	}
}

// TestPostVanilla is a vector of AWS's Signature Version 4 test suite,
// post-vanilla: it pins what the SDK's signer as an oracle might share with us.
func TestPostVanilla(t *testing.T) {
	t.Parallel()
	const request = "POST / HTTP/1.1\r\nHost:example.amazonaws.com\r\nX-Amz-Date:20150830T123600Z\r\n" +
		"Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, " +
		"SignedHeaders=host;x-amz-date, Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b\r\n\r\n"
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request)))
	if err != nil {
		t.Fatal(err)
	}
	v := verifier()
	v.Service = "service"
	if _, err := v.Verify(r, nil); err != nil {
		t.Error(err)
	}
}

// Java's SDK signs User-Agent, which no Go signer would.
func TestHeadersThatTheGoSignerLeavesOut(t *testing.T) {
	t.Parallel()
	r, err := http.NewRequest(http.MethodPost, "http://127.0.0.1:4566/", strings.NewReader(testBody))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("User-Agent", "aws-sdk-java/1.12   Linux")
	r.Header.Set("X-Amz-Date", testTime.Format(timeFormat))
	r.Header["X-Twice"] = []string{"a ", " b"}
	auth := &authorization{date: "20150830", region: "us-east-1", service: "kms", signedHeaders: []string{"host", "user-agent", "x-amz-date", "x-twice"}}
	canonical := "POST\n/\n\nhost:127.0.0.1:4566\nuser-agent:aws-sdk-java/1.12 Linux\nx-amz-date:20150830T123600Z\nx-twice:a,b\n\n" +
		"host;user-agent;x-amz-date;x-twice\n" + hex.EncodeToString(hash([]byte(testBody)))
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+testID+"/20150830/us-east-1/kms/aws4_request,SignedHeaders=host;user-agent;x-amz-date;x-twice,Signature="+
		hex.EncodeToString(sign(testSecret, "20150830T123600Z", auth, canonical)))
	if _, err := verify(t, verifier(), overTheWire(t, r)); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		signing func(*signing)
		request func(*http.Request)
		code    string
		text    string
	}{
		{name: "no header", request: del("Authorization"), code: codeMissing, text: "Missing Authentication Token"},
		{name: "basic", request: set("Authorization", "Basic Zm9vOmJhcg=="), code: codeMissing},
		{name: "version 2", request: set("Authorization", "AWS "+testID+":abc"), code: codeMissing},
		{name: "nothing in it", request: set("Authorization", "AWS4-HMAC-SHA256"), code: codeIncomplete},
		{name: "no signature", request: edit("Authorization", ", Signature=", ", Signatur="), code: codeIncomplete},
		{name: "twice", request: func(r *http.Request) { r.Header.Add("Authorization", r.Header.Get("Authorization")) }, code: codeIncomplete},
		{name: "short signature", request: func(r *http.Request) {
			h := r.Header.Get("Authorization")
			r.Header.Set("Authorization", h[:len(h)-2])
		}, code: codeIncomplete},
		{name: "unsorted", request: edit("Authorization", "SignedHeaders=", "SignedHeaders=zzz;"), code: codeIncomplete},
		{name: "bad scope", request: edit("Authorization", "/kms/", "/kms/kms/"), code: codeIncomplete},
		{name: "no date", request: del("X-Amz-Date"), code: codeIncomplete},
		{name: "bad date", request: set("X-Amz-Date", "today"), code: codeIncomplete, text: "'today'"},
		{name: "date of another day", request: set("X-Amz-Date", "20150831T123600Z"), code: codeInvalid, text: "Credential scope"},
		{name: "unknown key", signing: func(s *signing) { s.id = "AKIDOTHER" }, code: codeUnrecognized, text: "The security token included in the request is invalid."},
		{name: "session token", signing: func(s *signing) { s.token = "token" }, code: codeUnrecognized},
		{name: "wrong secret", signing: func(s *signing) { s.secret = "no" }, code: codeInvalid, text: "The request signature we calculated does not match"},
		{name: "too old", signing: func(s *signing) { s.at = testTime.Add(-301 * time.Second) }, code: codeInvalid, text: "Signature expired: 20150830T123059Z is now earlier than 20150830T123100Z (20150830T123600Z - 5 min.)"},
		{name: "too new", signing: func(s *signing) { s.at = testTime.Add(301 * time.Second) }, code: codeInvalid, text: "Signature not yet current"},
		{name: "other service", signing: func(s *signing) { s.service = "s3" }, code: codeInvalid, text: "correct service: 'kms'"},
		{name: "other Region", request: edit("Authorization", "/eu-west-1/", "/us-east-1/"), code: codeInvalid},
		{name: "other method", request: func(r *http.Request) { r.Method = http.MethodPut }, code: codeInvalid},
		{name: "other body", request: func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(testBody + " ")) }, code: codeInvalid},
		{name: "other length", request: func(r *http.Request) { r.ContentLength++ }, code: codeInvalid},
		{name: "other target", request: set("X-Amz-Target", "TrentService.Decrypt"), code: codeInvalid},
		{name: "other host", request: func(r *http.Request) { r.Host = "127.0.0.1:80" }, code: codeInvalid},
		{name: "other hash", request: set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"), code: codeInvalid, text: "X-Amz-Content-Sha256"},
		{name: "signed header gone", request: del("Amz-Sdk-Request"), code: codeInvalid, text: "'amz-sdk-request'"},
		{name: "target unsigned", signing: func(s *signing) { delete(s.headers, "X-Amz-Target") }, request: set("X-Amz-Target", "TrentService.Decrypt"), code: codeInvalid, text: "'x-amz-target' must be a 'SignedHeader'"},
		{name: "host unsigned", request: edit("Authorization", ";host", ""), code: codeInvalid, text: "'host' must be"},
		{name: "date unsigned", request: edit("Authorization", ";x-amz-date", ""), code: codeInvalid, text: "'x-amz-date' must be"},
		{name: "other path", request: func(r *http.Request) { r.URL.Path = "/status" }, code: "UnknownOperationException"},
		{name: "query", request: func(r *http.Request) { r.URL.RawQuery = "X-Amz-Signature=1" }, code: "UnknownOperationException"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := goodSigning()
			if tc.signing != nil {
				tc.signing(&s)
			}
			r := s.sign(t)
			if tc.request != nil {
				tc.request(r)
			}
			id, err := verify(t, verifier(), r)
			var refusal *Error
			if !errors.As(err, &refusal) || refusal.Code != tc.code || !strings.Contains(refusal.Message, tc.text) || refusal.Message == "" {
				t.Errorf("got %v, want %s %q", err, tc.code, tc.text)
			}
			if id != (Identity{}) {
				t.Errorf("an identity with an error: %+v", id)
			}
		})
	}
}

func set(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func del(name string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Del(name) }
}

func edit(name, from, to string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, strings.Replace(r.Header.Get(name), from, to, 1)) }
}

func FuzzVerify(f *testing.F) {
	good := goodSigning().sign(f)
	f.Add(good.Header.Get("Authorization"), good.Header.Get("X-Amz-Date"), "x")
	f.Add("AWS4-HMAC-SHA256 Credential=A/20150830/r/kms/aws4_request,SignedHeaders=host;x-amz-date,Signature="+strings.Repeat("0", 64), "20150830T123600Z", "")
	f.Fuzz(func(t *testing.T, auth, date, body string) {
		r := &http.Request{Method: http.MethodPost, URL: good.URL, Host: good.Host, Header: http.Header{"Authorization": {auth}, "X-Amz-Date": {date}}}
		var refusal *Error
		if _, err := verifier().Verify(r, []byte(body)); err != nil && !errors.As(err, &refusal) {
			t.Errorf("%T", err)
		}
	})
}
