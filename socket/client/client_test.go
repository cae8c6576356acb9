package client

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
)

// TestEnvelopeIsOpenedInItsRegion has callers whose environment names another
// Region than that of the key.
func TestEnvelopeIsOpenedInItsRegion(t *testing.T) {
	s := newService()
	path := s.start(t)
	sealer, err := NewEnvelopeClient(path, WithRegion("eu-west-1"))
	if err != nil {
		t.Fatal(err)
	}
	open := func(environment string, sealed []byte, opts ...Option) string {
		t.Helper()
		t.Setenv("AWS_REGION", environment)
		opener, err := NewEnvelopeClient(path, opts...)
		if err != nil {
			t.Fatal(err)
		}
		s.seen()
		plaintext, err := opener.Open(t.Context(), "", sealed, nil)
		if err != nil || !bytes.Equal(plaintext, []byte("hello")) {
			t.Errorf("%q, %v", plaintext, err)
		}
		requests := s.seen()
		if len(requests) != 1 {
			t.Fatalf("%d requests", len(requests))
		}
		return requests[0].Region
	}
	sealed, err := sealer.Seal(t.Context(), "alias/x", []byte("hello"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for version, e := range map[int][]byte{0: sealed, 2: sealOld(t, s, 2, []byte("hello"), nil)} {
		if got := open("us-west-2", e); got != "eu-west-1" {
			t.Errorf("version %d: opened in %q in spite of the file", version, got)
		}
		if got := open("", e); got != "eu-west-1" {
			t.Errorf("version %d: opened in %q without a Region of the environment", version, got)
		}
		if got := open("us-west-2", e, WithRegion("ap-south-1")); got != "ap-south-1" {
			t.Errorf("version %d: opened in %q in spite of the option", version, got)
		}
	}
	if got := open("us-west-2", sealOld(t, s, 1, []byte("hello"), nil)); got != "us-west-2" {
		t.Errorf("version 1 opened in %q", got)
	}
	// A key that is in one Region only is asked there.
	single, err := sealer.Seal(t.Context(), "arn:aws:kms:eu-west-1:000000000000:key/1", []byte("hello"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := open("", single, WithRegion("ap-south-1")); got != "eu-west-1" {
		t.Errorf("a key of one Region: opened in %q", got)
	}
}

// TestNoCallFailsForTheSakeOfAnAnswer counts the calls of a client whose daemon
// says what its token can do, and of one whose daemon does not.
func TestNoCallFailsForTheSakeOfAnAnswer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		says       bool
		algorithms []string
		calls      int // of the first GenerateRandom and the second
	}{
		{true, []string{"RSAES_OAEP_SHA_1"}, 2},
		{true, []string{"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"}, 2},
		{true, []string{"RSAES_OAEP_SHA_512"}, 4}, // nothing of ours: it finds out, each time
		{false, []string{"RSAES_OAEP_SHA_1"}, 3},
	} {
		s := newService()
		s.says, s.algorithms = tt.says, tt.algorithms
		c := newTestClient(t, s)
		for range 2 {
			_, _ = c.GenerateRandom(t.Context(), &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(8)})
		}
		if n := len(s.seen()); n != tt.calls {
			t.Errorf("%v, said %v: %d calls, want %d", tt.algorithms, tt.says, n, tt.calls)
		}
	}
}

func TestConnectErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, tt := range []struct{ path, want string }{
		{filepath.Join(dir, strings.Repeat("x", 108)), "the system allows 107"},
		{filepath.Join(dir, "none"), "no such file or directory"},
		{os.DevNull, "connection refused"},
	} {
		_, err := New(tt.path).ListKeys(t.Context(), nil)
		connect, ok := errors.AsType[*ConnectError](err)
		if !ok || connect.Path != tt.path || !strings.Contains(connect.Error(), tt.want) {
			t.Errorf("%s: %v", tt.path, err)
		}
	}
	// Trying again is for what passes without anybody's help.
	if (&ConnectError{Err: syscall.EACCES}).RetryableError() || !(&ConnectError{Err: syscall.ECONNREFUSED}).RetryableError() {
		t.Error("a permission is waited for, or a daemon that starts again is not")
	}
}

// TestTimeout calls a service that accepts and never answers, as systemd's socket
// of a daemon that is down.
func TestTimeout(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "client")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := NewEnvelopeClient(ln.Addr().String(), WithTimeout(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"ListKeys": func() error { _, err := c.ListKeys(t.Context(), nil); return err },
		"Seal":     func() error { _, err := c.Seal(t.Context(), "alias/x", nil, nil); return err },
	} {
		if err := call(); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer within 100ms") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
