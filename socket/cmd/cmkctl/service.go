package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"

	"cmkd/socket/client"
)

// service is the daemon as the common flags describe it.
type service struct {
	socket  string // as the flag has it, "" if it is not given
	timeout time.Duration
}

// defaultTimeout bounds one call. Key pairs of RSA-4096 take a token seconds.
const defaultTimeout = 30 * time.Second

// path is that of the socket.
func (s *service) path() string { return client.Path(s.socket) }

// kms is a client of the KMS API in a Region, "" for the default.
func (s *service) kms(region string) *kms.Client {
	return client.New(s.path(), client.WithRegion(region), client.WithTimeout(s.timeout))
}

// private is kms for answers with a secret in them, which travel encrypted to a key
// of this process. So data keys can be had from a daemon that gives none in the clear.
func (s *service) private(region string) (*kms.Client, error) {
	c, err := client.NewEnvelopeClient(s.path(), client.WithRegion(region), client.WithTimeout(s.timeout))
	if err != nil {
		return nil, err
	}
	return c.Client, nil
}

// do makes a request and returns the HTTP status and the body of the answer, of
// at most limit bytes.
func (s *service) do(req *http.Request, limit int64) (status int, body []byte, err error) {
	ctx := req.Context()
	if s.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.timeout)
		defer cancel()
	}
	req.Close = true // the connection serves once
	resp, err := client.HTTPClient(s.path()).Do(req.WithContext(ctx))
	if err != nil {
		return 0, nil, s.explain(err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, limit))
	if errors.Is(err, context.DeadlineExceeded) {
		return 0, nil, s.explain(err)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("reading the answer: %w", err)
	}
	return resp.StatusCode, body, nil
}

// explain words an error of a call: what the service said, or why it says
// nothing.
func (s *service) explain(err error) error {
	var apiErr smithy.APIError
	if errors.As(err, &apiErr) {
		return wordError(apiErr.ErrorCode(), apiErr.ErrorMessage())
	}
	if connect, ok := errors.AsType[*client.ConnectError](err); ok {
		return &exitError{exitUnavailable, fmt.Errorf("cmkd does not answer on %s: %w%s", connect.Path, connect.Err, connectHint(connect.Err))}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &exitError{exitUnavailable, fmt.Errorf("cmkd does not answer on %s within %s: see its log, or give it more time with --timeout", s.path(), s.timeout)}
	}
	var send *smithy.OperationError
	if errors.As(err, &send) {
		return &exitError{exitUnavailable, fmt.Errorf("cmkd does not answer on %s: %w", s.path(), rootCause(err))}
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
