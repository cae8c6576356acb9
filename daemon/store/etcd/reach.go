package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"
)

// alertTime is how long a server may take to say that it does not take the daemon's certificate: with TLS
// 1.3 that comes after the client's part of the handshake (RFC 8446, section 4.4.2.4).
const alertTime = 250 * time.Millisecond

// explain adds to an error of a start why no server can be reached: the client, which connects again and again,
// says only that there was no answer in time.
func (e *Engine) explain(ctx context.Context, err error) error {
	if s, ok := errors.AsType[*silent](err); !ok || !errors.Is(s.cause, context.DeadlineExceeded) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	var errs []error
	for _, endpoint := range e.options.Client.Endpoints {
		reason := e.reach(ctx, endpoint)
		if reason == nil {
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", endpoint, reason))
	}
	return &silent{errors.Join(errs...)}
}

// reach connects to a server, and returns why that fails.
func (e *Engine) reach(ctx context.Context, endpoint string) error {
	at, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	if e.options.Client.TLS == nil {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", at.Host)
		if err != nil {
			return err
		}
		return c.Close()
	}
	config := e.options.Client.TLS.Clone()
	config.NextProtos = []string{"h2"}
	c, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", at.Host)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetReadDeadline(time.Now().Add(alertTime)); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}
