package kmsapi_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/google/uuid"

	"cmkd/socket/kmsapi"
)

// unknown answers as a dispatcher that knows no operation.
var unknown = dispatcher(func(*kmsapi.Request) *kmsapi.Answer {
	return kmsapi.AnswerError(&kmsapi.Error{Code: kmsapi.CodeUnknownOperationException})
})

// received is an HTTP answer.
type received struct {
	status int
	length int64 // as announced
	header http.Header
	body   string
}

// send sends one HTTP request.
func send(t *testing.T, via http.RoundTripper, method, path string, header map[string]string, body io.Reader) received {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	answer, err := via.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return received{answer.StatusCode, answer.ContentLength, answer.Header, string(text)}
}

func TestHandlerFrames(t *testing.T) {
	t.Parallel()
	const body = `{"KeyId":"k"}`
	var got *kmsapi.Request
	via := serve(t, dispatcher(func(r *kmsapi.Request) *kmsapi.Answer {
		got = r
		if string(r.Body) != body {
			t.Errorf("body %q", r.Body)
		}
		return &kmsapi.Answer{Status: http.StatusOK, Body: []byte(`{"KeyMetadata":null}`)}
	}))
	answer := send(t, via, http.MethodPost, "/", map[string]string{
		"X-Amz-Target":  "TrentService.DescribeKey",
		"Authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261124/eu-west-3/kms/aws4_request, SignedHeaders=host, Signature=00",
		"User-Agent":    "test/1",
	}, strings.NewReader(body))

	if got.Operation != "DescribeKey" || got.Region != "eu-west-3" || got.AccessKeyID != "AKIDEXAMPLE" || got.UserAgent != "test/1" {
		t.Errorf("framed as %+v", got)
	}
	if got.Header.Get("X-Amz-Target") != "TrentService.DescribeKey" {
		t.Errorf("headers %v", got.Header)
	}
	if _, err := uuid.Parse(got.RequestID); err != nil {
		t.Errorf("request id %q: %v", got.RequestID, err)
	}
	if answer.status != http.StatusOK || answer.body != `{"KeyMetadata":null}` || answer.length != int64(len(answer.body)) {
		t.Errorf("status %d, length %d, body %s", answer.status, answer.length, answer.body)
	}
	for name, want := range map[string]string{"Content-Type": "application/x-amz-json-1.1", "X-Amzn-Requestid": got.RequestID} {
		if have := answer.header.Get(name); have != want {
			t.Errorf("%s: %q, want %q", name, have, want)
		}
	}
	if answer.header.Get("Date") == "" {
		t.Error("no Date")
	}
}

// TestHandlerRoutes has requests that name no operation. They reach the dispatcher all the same, to be audited.
func TestHandlerRoutes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		method, path, target string
		operation            string
		status               int
	}{
		{http.MethodPost, "/", "TrentService.Encrypt", "Encrypt", 400},
		{http.MethodPost, "/", "TrentService.NoSuchThing", "NoSuchThing", 400},
		{http.MethodPost, "/?x=y", "TrentService.Encrypt", "Encrypt", 400},
		{http.MethodPost, "/", "", "", 400},
		{http.MethodPost, "/", "Encrypt", "", 400},
		{http.MethodPost, "/", "TrentService.", "", 400},
		{http.MethodPost, "/", "TrentService.Encrypt\tx", "", 400},
		{http.MethodPost, "/", "trentservice.Encrypt", "", 400},
		{http.MethodPost, "/", "DynamoDB_20120810.Encrypt", "", 400},
		{http.MethodPost, "/", "TrentService." + strings.Repeat("x", 65), "", 400},
		{http.MethodPost, "/x", "TrentService.Encrypt", "", 404},
		{http.MethodGet, "/", "TrentService.Encrypt", "", 404},
		{http.MethodPut, "/", "TrentService.Encrypt", "", 404},
		{http.MethodOptions, "*", "TrentService.Encrypt", "", 404},
	} {
		t.Run(tt.method+tt.path+tt.target, func(t *testing.T) {
			t.Parallel()
			operation := "the dispatcher was not called"
			via := serve(t, dispatcher(func(r *kmsapi.Request) *kmsapi.Answer {
				operation = r.Operation
				return unknown(r)
			}))
			path := tt.path
			if path == "*" {
				path = "/y"
			}
			answer := send(t, via, tt.method, path, map[string]string{"X-Amz-Target": tt.target}, nil)
			if operation != tt.operation || answer.status != tt.status || answer.body != `{"__type":"UnknownOperationException"}` {
				t.Errorf("operation %q, status %d, body %s", operation, answer.status, answer.body)
			}
			if answer.header.Get("X-Amzn-Requestid") == "" {
				t.Error("no request id")
			}
		})
	}
}

func TestHandlerCredential(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ authorization, accessKeyID, region string }{
		{"", "", ""},
		{"AWS4-HMAC-SHA256 Credential=AK/20261124/us-east-1/kms/aws4_request,SignedHeaders=host,Signature=0", "AK", "us-east-1"},
		{"AWS4-HMAC-SHA256 SignedHeaders=host, Signature=0, Credential=AK/20261124/us-east-1/kms/aws4_request", "AK", "us-east-1"},
		{"AWS4-HMAC-SHA256 Credential=AK/20261124/us-east-1/kms", "", ""},
		{"AWS4-HMAC-SHA256 Credential=AK/20261124/us-east-1/kms/aws5_request", "", ""},
		{"AWS4-HMAC-SHA256 Credential=A/K/20261124/us-east-1/kms/aws4_request", "", ""},
		{"AWS4-HMAC-SHA256 SignedHeaders=host", "", ""},
		{"AWS4-ECDSA-P256-SHA256 Credential=AK/20261124/kms/aws4_request", "", ""},
		{"Basic QUs6", "", ""},
	} {
		var got *kmsapi.Request
		via := serve(t, dispatcher(func(r *kmsapi.Request) *kmsapi.Answer {
			got = r
			return unknown(r)
		}))
		send(t, via, http.MethodPost, "/", map[string]string{"Authorization": tt.authorization}, nil)
		if got.AccessKeyID != tt.accessKeyID || got.Region != tt.region {
			t.Errorf("%s: %q in %q, want %q in %q", tt.authorization, got.AccessKeyID, got.Region, tt.accessKeyID, tt.region)
		}
	}
}

func TestHandlerBodyLimit(t *testing.T) {
	t.Parallel()
	length := -1
	d := dispatcher(func(r *kmsapi.Request) *kmsapi.Answer {
		if r.Refused != nil && r.Body == nil {
			return kmsapi.AnswerError(r.Refused)
		}
		length = len(r.Body)
		return &kmsapi.Answer{Status: http.StatusOK}
	})
	for _, chunked := range []bool{false, true} {
		for size, status := range map[int]int{kmsapi.MaxBodySize: http.StatusOK, kmsapi.MaxBodySize + 1: http.StatusRequestEntityTooLarge} {
			length = -1
			var body io.Reader = bytes.NewReader(make([]byte, size))
			if chunked {
				body = io.MultiReader(body) // hides the length
			}
			answer := send(t, serve(t, d), http.MethodPost, "/", nil, body)
			if answer.status != status {
				t.Errorf("%d bytes: status %d, want %d", size, answer.status, status)
			}
			if status == http.StatusOK {
				if length != size {
					t.Errorf("%d bytes came as %d", size, length)
				}
				continue
			}
			if want := `{"__type":"RequestEntityTooLargeException","message":"Request body is larger than 1048576 bytes"}`; answer.body != want || length != -1 {
				t.Errorf("%s, dispatched: %t", answer.body, length != -1)
			}
			if answer.header.Get("X-Amzn-Requestid") == "" {
				t.Error("no request id")
			}
		}
	}
}

func TestHandlerShortBody(t *testing.T) {
	t.Parallel()
	via := serve(t, dispatcher(func(r *kmsapi.Request) *kmsapi.Answer {
		if r.Refused == nil || r.Body != nil {
			t.Error("half a request was dispatched")
			return &kmsapi.Answer{Status: http.StatusOK}
		}
		return kmsapi.AnswerError(r.Refused)
	}))
	conn, err := via.DialContext(t.Context(), "unix", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{}")
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(text, []byte("HTTP/1.1 400 ")) || !bytes.HasSuffix(text, []byte(`{"__type":"SerializationException","message":"Request body is shorter than its Content-Length"}`)) {
		t.Errorf("answer %s", text)
	}
}

// TestHandlerKeepsBodiesApart sends different bodies at once: buffers are shared between calls, their contents never.
func TestHandlerKeepsBodiesApart(t *testing.T) {
	t.Parallel()
	c := client(t, dispatcher(func(r *kmsapi.Request) *kmsapi.Answer {
		var in kmsapi.EncryptRequest
		if err := in.Decode(r.Body); err != nil {
			t.Error(err)
		}
		return &kmsapi.Answer{Status: http.StatusOK, Body: (&kmsapi.EncryptResponse{KeyId: in.KeyId, CiphertextBlob: in.Plaintext}).AppendJSON(nil)}
	}))
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 50 {
				id := fmt.Sprintf("%d-%d", worker, i)
				plaintext := bytes.Repeat([]byte{byte(worker), byte(i)}, 1+i*40)
				out, err := c.Encrypt(context.WithoutCancel(t.Context()), &kms.EncryptInput{KeyId: &id, Plaintext: plaintext})
				if err != nil {
					t.Error(err)
					return
				}
				if aws.ToString(out.KeyId) != id || !bytes.Equal(out.CiphertextBlob, plaintext) {
					t.Errorf("call %s was answered with %s", id, aws.ToString(out.KeyId))
				}
			}
		})
	}
	group.Wait()
}

// TestSDKValidation has the SDK read a refusal made by Decode, with the request id beside it.
func TestSDKValidation(t *testing.T) {
	t.Parallel()
	c := client(t, dispatcher(func(r *kmsapi.Request) *kmsapi.Answer {
		code, message := refusal(t, new(kmsapi.EncryptRequest).Decode(r.Body))
		return kmsapi.AnswerError(&kmsapi.Error{Code: code, Message: message})
	}))
	_, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: aws.String("k")})
	const want = "api error ValidationException: 1 validation error detected: Value at 'plaintext' failed to satisfy constraint: Member must not be null"
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "RequestID: ,") {
		t.Errorf("%v\nwant %s", err, want)
	}
}

func TestOperationsMakeFreshValues(t *testing.T) {
	t.Parallel()
	for _, op := range kmsapi.Operations {
		if a, b := op.NewInput(), op.NewInput(); a == b && reflect.TypeOf(a).Elem().Size() > 0 {
			t.Errorf("%s shares its input", op.Name)
		}
		if !strings.HasSuffix(reflect.TypeOf(op.NewInput()).String(), op.Name+"Request") {
			t.Errorf("%s takes %T", op.Name, op.NewInput())
		}
	}
}
