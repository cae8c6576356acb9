package bridge

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"

	"cmkd/socket/client"
	"cmkd/socket/cmd/cmkctl/internal/clitest"
)

// bridgedService starts a service and a bridge to it, and returns the service's
// end.
func bridgedService(t *testing.T, cred Credential) (*Server, func() error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "bridge")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	stop, err := clitest.StartService(path, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	b, err := Start(t.Context(), path, 0, nil, cred)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return b, stop
}

func sdk(b *Server, cred Credential, region string) *kms.Client {
	return kms.New(kms.Options{
		BaseEndpoint: &b.Endpoint,
		Region:       region,
		Credentials:  credentials.NewStaticCredentialsProvider(cred.ID, cred.Secret, ""),
		Retryer:      aws.NopRetryer{},
		APIOptions:   []func(*middleware.Stack) error{client.PlainBody},
	})
}

func errorCode(err error) string {
	var apiErr smithy.APIError
	if errors.As(err, &apiErr) {
		return apiErr.ErrorCode()
	}
	return fmt.Sprint(err)
}

func TestBridgeForwardsSignedRequests(t *testing.T) {
	t.Parallel()
	cred := NewCredential()
	b, _ := bridgedService(t, cred)
	var wg sync.WaitGroup
	for i := range 16 {
		region := []string{"us-east-1", "eu-central-1"}[i%2]
		c := sdk(b, cred, region)
		wg.Go(func() {
			for j := range int32(10) {
				out, err := c.ListAliases(t.Context(), &kms.ListAliasesInput{Limit: aws.Int32(j + 1)})
				if err != nil {
					t.Error(err)
					return
				}
				a := out.Aliases[0]
				if *a.AliasName != "alias/"+region || *a.TargetKeyId != fmt.Sprintf("uid %d host %s", os.Getuid(), strings.TrimPrefix(b.Endpoint, "http://")) || *a.AliasArn != fmt.Sprintf(`{"Limit":%d}`, j+1) {
					t.Errorf("arrived as %s %s %s", *a.AliasName, *a.TargetKeyId, *a.AliasArn)
				}
			}
		})
	}
	wg.Wait()
	if _, err := sdk(b, cred, "us-east-1").ListKeys(t.Context(), nil); errorCode(err) != "AccessDeniedException" {
		t.Errorf("an error of the service: %v", err)
	}
}

func TestBridgeRefusesOthers(t *testing.T) {
	t.Parallel()
	cred := NewCredential()
	b, _ := bridgedService(t, cred)
	for want, other := range map[string]Credential{
		"InvalidSignatureException":   {cred.ID, NewCredential().Secret},
		"UnrecognizedClientException": {NewCredential().ID, cred.Secret},
	} {
		if _, err := sdk(b, other, "us-east-1").ListAliases(t.Context(), nil); errorCode(err) != want {
			t.Errorf("%v, want %s", err, want)
		}
	}

	for path, want := range map[string]string{"/": "MissingAuthenticationTokenException", "/status": "MissingAuthenticationTokenException"} {
		resp, err := http.Get(b.Endpoint + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), `"__type":"`+want+`"`) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
		if ct := resp.Header.Get("Content-Type"); ct != "application/x-amz-json-1.1" || len(resp.Header.Get("x-amzn-RequestId")) != 36 {
			t.Errorf("%s: header %v", path, resp.Header)
		}
	}

	// Its length is enough. Of the body, which nobody reads, none is sent: that would end in
	// a reset of the connection.
	large := signed(t, b, cred, strings.Repeat("x", MaxBody+1), nil)
	unsent, w := io.Pipe()
	defer w.Close()
	large.Body = unsent
	if status, body := send(t, large); status != http.StatusBadRequest || !strings.Contains(body, "RequestEntityTooLargeException") {
		t.Errorf("large body: %d %s", status, body)
	}
	if status, body := send(t, signed(t, b, cred, strings.Repeat(" ", MaxBody-2)+"{}", nil)); status != http.StatusOK {
		t.Errorf("body of the greatest length: %d %s", status, body)
	}
}

// signed is a request that the SDK's signer has signed, with the headers given.
func signed(t *testing.T, b *Server, cred Credential, body string, header map[string]string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.Endpoint, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Target", "TrentService.ListAliases")
	for name, value := range header {
		r.Header.Set(name, value)
	}
	if host := header["Host"]; host != "" {
		r.Host = host
	}
	sum := sha256.Sum256([]byte(body))
	creds := aws.Credentials{AccessKeyID: cred.ID, SecretAccessKey: cred.Secret}
	if err := v4.NewSigner().SignHTTP(t.Context(), creds, r, hex.EncodeToString(sum[:]), "kms", "us-east-1", time.Now()); err != nil {
		t.Fatal(err)
	}
	return r
}

// send sends a request on a connection of its own.
func send(t *testing.T, r *http.Request) (status int, body string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: r.Header.Get("Connection") == ""}}
	defer c.CloseIdleConnections()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

func TestBridgeWithoutDaemon(t *testing.T) {
	t.Parallel()
	cred := NewCredential()
	b, stop := bridgedService(t, cred)
	c := sdk(b, cred, "us-east-1")
	if _, err := c.ListAliases(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ListAliases(t.Context(), nil); errorCode(err) != "ServiceUnavailableException" {
		t.Errorf("got %v", err)
	}
}

func TestBridgeIsOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	b, _ := bridgedService(t, NewCredential())
	addr := strings.TrimPrefix(b.Endpoint, "http://")
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host != "127.0.0.1" {
		t.Errorf("listens on %s: %v", addr, err)
	}
	if conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.2", port)); err == nil {
		conn.Close()
		t.Error("reachable by another address")
	}
}

func TestBridgedEnvironment(t *testing.T) {
	t.Parallel()
	vars := AWSVariables("http://127.0.0.1:1", "eu-west-1", Credential{"ID", "secret"})
	common := []string{
		"AWS_ACCESS_KEY_ID=ID", "AWS_DEFAULT_REGION=eu-west-1", "AWS_ENDPOINT_URL_KMS=http://127.0.0.1:1",
		"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=false", "AWS_REGION=eu-west-1", "AWS_SECRET_ACCESS_KEY=secret",
	}
	exports := filepath.Join(t.TempDir(), "exports")
	var lines bytes.Buffer
	if err := WriteExports(&lines, vars); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exports, lines.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name         string
		before, want []string
	}{
		{"nothing", nil, []string{"NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1"}},
		{
			"all that leads elsewhere",
			[]string{
				"HOME=/home/x", "AWS_PROFILE=prod", "AWS_DEFAULT_PROFILE=prod", "AWS_SESSION_TOKEN=t", "AWS_SECURITY_TOKEN=t",
				"AWS_CREDENTIAL_EXPIRATION=2020-01-01T00:00:00Z", "AWS_REGION=us-west-2", "AWS_ACCESS_KEY_ID=real",
				"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true", "AWS_USE_FIPS_ENDPOINT=true", "AWS_USE_DUALSTACK_ENDPOINT=true",
				"CMKD_BRIDGE_SECRET=s", "http_proxy=http://proxy:1",
			},
			[]string{"HOME=/home/x", "NO_PROXY=127.0.0.1", "http_proxy=http://proxy:1", "no_proxy=127.0.0.1"},
		},
		{
			"other hosts without a proxy",
			[]string{"no_proxy=example.com,127.0.0.11,"},
			[]string{"NO_PROXY=example.com,127.0.0.11,127.0.0.1", "no_proxy=example.com,127.0.0.11,127.0.0.1"},
		},
		{"one of each", []string{"NO_PROXY=a", "no_proxy=b"}, []string{"NO_PROXY=a,127.0.0.1", "no_proxy=b,127.0.0.1"}},
		{"no proxy at all", []string{"NO_PROXY=*"}, []string{"NO_PROXY=*", "no_proxy=*"}},
	} {
		want := slices.Sorted(slices.Values(slices.Concat(common, tt.want)))
		if got := slices.Sorted(slices.Values(bridged(tt.before, vars))); !slices.Equal(got, want) {
			t.Errorf("%s: a command\ngot  %q\nwant %q", tt.name, got, want)
		}
		// The same by the lines, for a shell that is strict.
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-euc", `. "$0"; exec /usr/bin/env`, exports)
		cmd.Env = append(tt.before, "PATH=/usr/bin:/bin")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(tt.name, err)
		}
		got := slices.DeleteFunc(strings.Fields(string(out)), func(entry string) bool {
			return strings.HasPrefix(entry, "PATH=") || strings.HasPrefix(entry, "PWD=") || strings.HasPrefix(entry, "OLDPWD=") || strings.HasPrefix(entry, "_=")
		})
		slices.Sort(got)
		for i := range got {
			got[i] = strings.ReplaceAll(got[i], ",,", ",") // an empty entry means nothing
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: the lines\ngot  %q\nwant %q", tt.name, got, want)
		}
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	a, b := NewCredential(), NewCredential()
	if a == b || len(a.ID) != 20 || len(a.Secret) != 40 || !accessKeyPattern.MatchString(a.ID) {
		t.Errorf("made %d and %d characters", len(a.ID), len(a.Secret))
	}
	for _, bad := range [][2]string{{"id", ""}, {"", "secret"}, {"a/b", "secret"}, {strings.Repeat("x", 129), "secret"}} {
		if _, err := DevCredential(bad[0], bad[1]); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
	for s, want := range map[string]string{"a/b+c=": "a/b+c=", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$x": "'$x'"} {
		if got := ShellQuote(s); got != want {
			t.Errorf("quoted %s as %s", s, got)
		}
	}
}
