package bridge

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestBridgeRefusesWhatItCannotForward: another name for the loopback is that
// of a page of the web, and a header that Connection names would be lost.
func TestBridgeRefusesWhatItCannotForward(t *testing.T) {
	t.Parallel()
	cred := NewCredential()
	b, _ := bridgedService(t, cred)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(b.Endpoint, "http://"))
	for _, tt := range []struct {
		name   string
		header map[string]string
		status int
	}{
		{"as it is", nil, http.StatusOK},
		{"localhost", map[string]string{"Host": "LocalHost:" + port}, http.StatusOK},
		{"another name", map[string]string{"Host": "attacker.example:" + port}, http.StatusMisdirectedRequest},
		{"another port", map[string]string{"Host": "127.0.0.1:1"}, http.StatusMisdirectedRequest},
		{"no port", map[string]string{"Host": "localhost"}, http.StatusMisdirectedRequest},
		{"an address beside", map[string]string{"Host": "127.0.0.2:" + port}, http.StatusMisdirectedRequest},
		{"keep-alive", map[string]string{"Connection": "Keep-Alive"}, http.StatusOK},
		{"authorization", map[string]string{"Connection": "authorization"}, http.StatusBadRequest},
		{"x-amz-target", map[string]string{"Connection": "close, X-Amz-Target"}, http.StatusBadRequest},
		{"upgrade", map[string]string{"Connection": "Upgrade", "Upgrade": "h2c"}, http.StatusBadRequest},
	} {
		if status, body := send(t, signed(t, b, cred, "{}", tt.header)); status != tt.status {
			t.Errorf("%s: %d %s, want %d", tt.name, status, body, tt.status)
		}
	}
}

func TestBridgeRefusesReplays(t *testing.T) {
	t.Parallel()
	cred := NewCredential()
	b, _ := bridgedService(t, cred)
	header := map[string]string{"Amz-Sdk-Invocation-Id": "6a5bd2c1-0000-4000-8000-000000000000"}
	r := signed(t, b, cred, "{}", header)
	if status, body := send(t, r); status != http.StatusOK {
		t.Fatal(status, body)
	}
	again := r.Clone(t.Context())
	again.Body = io.NopCloser(strings.NewReader("{}"))
	if status, body := send(t, again); status != http.StatusBadRequest || !strings.Contains(body, "has been used before") {
		t.Errorf("a replay: %d %s", status, body)
	}
}

// TestBridgeReadsNothingOfStrangers: without a credential the answer comes
// before the body, and who holds connections open keeps nobody out.
func TestBridgeReadsNothingOfStrangers(t *testing.T) {
	t.Parallel()
	cred := NewCredential()
	b, _ := bridgedService(t, cred)
	addr := strings.TrimPrefix(b.Endpoint, "http://")
	friend := sdk(b, cred, "us-east-1")
	if _, err := friend.ListAliases(t.Context(), nil); err != nil {
		t.Fatal(err)
	}

	request := func(authorization string) string {
		return "POST / HTTP/1.1\r\nHost: " + addr + "\r\nX-Amz-Date: " + time.Now().UTC().Format("20060102T150405Z") +
			"\r\nX-Amz-Target: TrentService.Encrypt\r\nContent-Length: 1048576\r\n" + authorization + "\r\n"
	}
	scope := time.Now().UTC().Format("20060102") + "/us-east-1/kms/aws4_request, SignedHeaders=host;x-amz-date;x-amz-target, Signature=" + strings.Repeat("0", 64)
	for name, authorization := range map[string]string{
		"no signature":       "",
		"unknown access key": "Authorization: AWS4-HMAC-SHA256 Credential=AKIAOTHER/" + scope + "\r\n",
		"another service":    "Authorization: AWS4-HMAC-SHA256 Credential=" + cred.ID + "/" + strings.Replace(scope, "/kms/", "/s3/", 1) + "\r\n",
	} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, request(authorization)); err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		raw, err := io.ReadAll(conn) // it is closed then
		if err != nil || !strings.HasPrefix(string(raw), "HTTP/1.1 400 ") {
			t.Errorf("%s: %q, %v", name, raw, err)
		}
	}

	// More than there is room for, all but done with their headers.
	var held []net.Conn
	for range 2 * maxStrangers {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\n"); err != nil && len(held) > maxStrangers {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	if _, err := friend.ListAliases(t.Context(), nil); err != nil {
		t.Errorf("who was there before: %v", err)
	}
	if _, err := sdk(b, cred, "us-east-1").ListAliases(t.Context(), nil); err != nil {
		t.Errorf("who comes back: %v", err)
	}
	held[0].SetDeadline(time.Now().Add(5 * time.Second)) // less than the bridge waits for a header
	if raw, err := io.ReadAll(held[0]); len(raw) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the oldest connection is still open: %q, %v", raw, err)
	}
}

// TestBridgeBoundsLargeBodies: who knows an access key ID and no secret takes up
// places for large bodies, of which there are few, and no memory beyond.
func TestBridgeBoundsLargeBodies(t *testing.T) {
	t.Parallel()
	l := newLargeBodies()
	large := &http.Request{ContentLength: MaxBody}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range strangerBodies {
		if _, err := l.enter(large, false); err != nil {
			t.Fatal(err)
		}
	}
	refused, ok := errors.AsType[*refusal](second(l.enter(large.WithContext(ctx), false)))
	if !ok || refused.status != http.StatusServiceUnavailable {
		t.Errorf("one too many: %v", refused)
	}
	for name, r := range map[string]struct {
		length int64
		friend bool
	}{"a small body": {largeBody, false}, "who has signed well": {MaxBody, true}} {
		if _, err := l.enter(&http.Request{ContentLength: r.length}, r.friend); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := second(l.enter(&http.Request{ContentLength: MaxBody + 1}, true)); !errors.Is(err, errBodyTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }
