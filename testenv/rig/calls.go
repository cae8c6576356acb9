package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go/middleware"

	"cmkd/socket/client"
)

// HTTP is an HTTP client whose connections go to the socket.
func (r *Rig) HTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 256,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", r.Socket)
		},
	}}
}

// Client is the AWS SDK's client for a Region, "" meaning Region. It does not
// retry: a test sees each answer.
func (r *Rig) Client(region string) *kms.Client {
	if region == "" {
		region = Region
	}
	return kms.New(kms.Options{
		BaseEndpoint: aws.String("http://localhost"), Region: region, HTTPClient: r.HTTP(),
		Credentials: credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "secret", ""),
		Retryer:     aws.NopRetryer{},
		APIOptions:  []func(*middleware.Stack) error{client.PlainBody},
	})
}

// Post sends a body as it is and returns the HTTP status and the answer.
func (r *Rig) Post(t testing.TB, operation, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Amz-Target", "TrentService."+operation)
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	c := r.HTTP()
	defer c.CloseIdleConnections()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", operation, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", operation, err)
	}
	answer := map[string]any{}
	if len(bytes.TrimSpace(raw)) > 0 {
		if err := json.Unmarshal(raw, &answer); err != nil {
			t.Fatalf("%s answered %q: %v", operation, raw, err)
		}
	}
	return resp.StatusCode, answer
}

// Status is GET /status.
type Status struct {
	State   string
	Keys    int
	Plugins []struct {
		Name, Token, State, Hanging, LastError string
		Restarts, PID                          int
		Sessions                               int
	}
}

// Do sends a request, which must be answered. The text is the body of the answer.
func Do(t testing.TB, c *http.Client, req *http.Request) (status int, header http.Header, text string) {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(raw)
}

// Ask makes a request of the daemon as the test's user.
func (r *Rig) Ask(t testing.TB, method, path, body string) (status int, answer string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // a cleanup may ask
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	c := r.HTTP()
	defer c.CloseIdleConnections()
	status, _, answer = Do(t, c, req)
	return status, answer
}

// Status asks the daemon for its status.
func (r *Rig) Status(t testing.TB) Status {
	t.Helper()
	_, text := r.Ask(t, http.MethodGet, "/status", "")
	var s Status
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return s
}
