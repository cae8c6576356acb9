package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"

	"cmkd/socket/client"
)

// Service is the daemon as the common flags describe it.
type Service struct {
	Socket  string // as the flag has it, "" if it is not given
	Timeout time.Duration
}

// DefaultTimeout bounds one call. Key pairs of RSA-4096 take a token seconds.
const DefaultTimeout = 30 * time.Second

// Path is that of the socket.
func (s *Service) Path() string { return client.Path(s.Socket) }

// KMS is a client of the KMS API in a Region, "" for the default.
func (s *Service) KMS(region string) *kms.Client {
	return client.New(s.Path(), client.WithRegion(region), client.WithTimeout(s.Timeout))
}

// Private is kms for answers with a secret in them, which travel encrypted to a key
// of this process. So data keys can be had from a daemon that gives none in the clear.
func (s *Service) Private(region string) (*kms.Client, error) {
	c, err := client.NewEnvelopeClient(s.Path(), client.WithRegion(region), client.WithTimeout(s.Timeout))
	if err != nil {
		return nil, err
	}
	return c.Client, nil
}

// Do makes a request and returns the HTTP status and the body of the answer, of
// at most limit bytes.
func (s *Service) Do(req *http.Request, limit int64) (status int, body []byte, err error) {
	ctx := req.Context()
	if s.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.Timeout)
		defer cancel()
	}
	req.Close = true // the connection serves once
	resp, err := client.HTTPClient(s.Path()).Do(req.WithContext(ctx))
	if err != nil {
		return 0, nil, s.Explain(err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, limit))
	if errors.Is(err, context.DeadlineExceeded) {
		return 0, nil, s.Explain(err)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("reading the answer: %w", err)
	}
	return resp.StatusCode, body, nil
}

// Explain words an error of a call: what the service said, or why it says
// nothing.
func (s *Service) Explain(err error) error {
	if _, worded := errors.AsType[*ExitError](err); worded {
		return err
	}
	var apiErr smithy.APIError
	if errors.As(err, &apiErr) {
		return WordError(apiErr.ErrorCode(), apiErr.ErrorMessage())
	}
	if connect, ok := errors.AsType[*client.ConnectError](err); ok {
		return Exit(ExitUnavailable, fmt.Errorf("cmkd does not answer on %s: %w%s", connect.Path, connect.Err, connectHint(connect.Err)))
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Exit(ExitUnavailable, fmt.Errorf("cmkd does not answer on %s within %s: see its log, or give it more time with --timeout", s.Path(), s.Timeout))
	}
	var send *smithy.OperationError
	if errors.As(err, &send) {
		return Exit(ExitUnavailable, fmt.Errorf("cmkd does not answer on %s: %w", s.Path(), RootCause(err)))
	}
	return err
}

// connectHint says what to do about an error of connect(2).
func connectHint(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "; its group may connect: have root add you to it, and log in again"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return "; is cmkd running? --socket or " + client.PathVariable + " names another socket"
	default:
		return ""
	}
}

// WordError words an error of the service, some of which have no message.
func WordError(code, message string) error {
	status, known := statusOfCode[code]
	if !known {
		status = ExitFailed
	}
	if message == "" {
		return Exit(status, errors.New(Quote(code)))
	}
	if strings.HasPrefix(message, "Credential should be scoped to a valid region") {
		message += " The daemon does not serve that Region, which is from --region, AWS_REGION or AWS_DEFAULT_REGION."
	}
	return Exit(status, fmt.Errorf("%s: %s", Quote(code), Quote(message)))
}

// Stream makes a request and returns the answer, whose body is not JSON. The time
// limit is for its beginning: see [Service.Bound].
func (s *Service) Stream(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true                                                                                                       // the connection serves once
	c := client.HTTPClient(s.Path()).WithTransportOptions(func(t *http.Transport) { t.ResponseHeaderTimeout = s.Timeout }) // 0: none
	resp, err := c.Do(req)
	if timeout, ok := errors.AsType[net.Error](err); err != nil && ok && timeout.Timeout() {
		err = context.DeadlineExceeded
	}
	if err != nil {
		return nil, s.Explain(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	return nil, Refused(resp.StatusCode, strings.TrimSpace(string(text)))
}

// Bound has the time limit hold for each part of the answer, too. A read that takes longer fails
// with [context.DeadlineExceeded].
func (s *Service) Bound(answer *http.Response) {
	if s.Timeout > 0 {
		answer.Body = &bounded{ReadCloser: answer.Body, limit: s.Timeout}
	}
}

// bounded closes the body under a read that takes too long, which ends it.
type bounded struct {
	io.ReadCloser

	limit time.Duration
}

// Read implements [io.Reader].
func (b *bounded) Read(p []byte) (int, error) {
	late := time.AfterFunc(b.limit, func() { _ = b.Close() })
	n, err := b.ReadCloser.Read(p)
	if !late.Stop() && err != nil {
		err = context.DeadlineExceeded
	}
	return n, err
}

// RootCause is the innermost text of a network error: the address in it is the
// endpoint's, which is not an address.
func RootCause(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
