// Package client is the Go library for programs that use cmkd: a configuration
// that points aws-sdk-go-v2 at the daemon's Unix socket, a recipient key that
// lets programs use data keys which leave the token only wrapped, and envelope
// encryption on top of both.
package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// DefaultPath is where the daemon listens if nobody says otherwise.
const DefaultPath = "/run/cmkd/cmkd.sock"

// PathVariable is the environment variable that names another socket.
const PathVariable = "CMKD_SOCKET"

// endpoint is the origin of every request. The name is never resolved.
const endpoint = "http://localhost"

// Option changes a default of [Config], [New] or [NewEnvelopeClient].
type Option func(*options)

type options struct {
	region  string
	chosen  bool // the region, by WithRegion
	bits    int
	timeout time.Duration
}

// WithRegion sets the Region in which keys are looked for; default
// AWS_REGION, AWS_DEFAULT_REGION or the daemon's own. An envelope is opened in
// the Region that it names unless this option is given. "" chooses none.
func WithRegion(region string) Option {
	return func(o *options) { o.region, o.chosen = region, region != "" }
}

// WithTimeout bounds each call, with the SDK's retries. Default: none, the
// call's context alone bounds it. 0 means no limit.
func WithTimeout(timeout time.Duration) Option {
	return func(o *options) { o.timeout = timeout }
}

// WithRecipientBits sets the modulus length of the recipient key of
// [NewEnvelopeClient]: 2048 (the default), 3072 or 4096.
func WithRecipientBits(bits int) Option {
	return func(o *options) { o.bits = bits }
}

func collect(opts []Option) options {
	o := options{bits: 2048}
	for _, opt := range opts {
		opt(&o)
	}
	o.region = cmp.Or(o.region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
	return o
}

// Path returns path, or if that is empty the value of CMKD_SOCKET, or else
// [DefaultPath].
func Path(path string) string {
	return cmp.Or(path, os.Getenv(PathVariable), DefaultPath)
}

// Config returns a configuration whose requests go to the socket at [Path] of
// path. The daemon knows its callers from the kernel, so the credentials in it
// are a formality: what counts in the signature is the Region.
func Config(path string, opts ...Option) aws.Config {
	o := collect(opts)
	cfg := aws.Config{
		Region:       o.region,
		BaseEndpoint: aws.String(endpoint),
		Credentials:  credentials.NewStaticCredentialsProvider("cmkd", "cmkd", ""),
		HTTPClient:   HTTPClient(path),
	}
	cfg.APIOptions = append(cfg.APIOptions, PlainBody)
	if cfg.Region == "" {
		cfg.Region = placeholderRegion
		cfg.APIOptions = append(cfg.APIOptions, dropSignature)
	}
	if o.timeout > 0 {
		cfg.APIOptions = append(cfg.APIOptions, limitTime(o.timeout))
	}
	return cfg
}

// placeholderRegion is for the SDK, which insists on one.
const placeholderRegion = "us-east-1"

// dropSignature takes off what would name a Region that nobody has chosen:
// without it the daemon takes its own.
func dropSignature(stack *middleware.Stack) error {
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("cmkdDropSignature",
		func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
			if req, ok := in.Request.(*smithyhttp.Request); ok && ctx.Value(regionNamed{}) == nil {
				req.Header.Del("Authorization")
			}
			return next.HandleFinalize(ctx, in)
		}), "Signing", middleware.After)
}

// regionNamed is the key of a context whose call names a Region of its own.
type regionNamed struct{}

// timeoutID is that of the middleware of [WithTimeout], which goes first.
const timeoutID = "cmkdTimeout"

// limitTime ends each call after timeout.
func limitTime(timeout time.Duration) func(*middleware.Stack) error {
	return func(stack *middleware.Stack) error {
		return stack.Initialize.Add(middleware.InitializeMiddlewareFunc(timeoutID,
			func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
				ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
				defer cancel()
				out, md, err := next.HandleInitialize(ctx, in)
				if err != nil && ctx.Err() != nil {
					err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
				}
				return out, md, err
			}), middleware.Before)
	}
}

// ConnectError means that nothing answers on the daemon's socket.
type ConnectError struct {
	Path string // of the socket
	Err  error  // of connect(2) or before it
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("connecting to cmkd on %s: %v", e.Path, e.Err)
}

func (e *ConnectError) Unwrap() error { return e.Err }

// RetryableError tells the SDK which errors may pass without anybody's help, as while the
// daemon starts again.
func (e *ConnectError) RetryableError() bool {
	return errors.Is(e.Err, syscall.ECONNREFUSED) || errors.Is(e.Err, syscall.ENOENT) || errors.Is(e.Err, syscall.EAGAIN)
}

// maxPath is the longest path of a Unix socket in bytes (unix(7)).
const maxPath = 107

// connect connects to the socket at path.
func connect(ctx context.Context, path string) (net.Conn, error) {
	if len(path) > maxPath {
		return nil, &ConnectError{path, fmt.Errorf("the path has %d bytes, the system allows %d", len(path), maxPath)}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if call, ok := errors.AsType[*os.SyscallError](err); ok {
		err = call.Err
	}
	if err != nil {
		return nil, &ConnectError{path, err}
	}
	return conn, nil
}

// HTTPClient returns a client whose every request goes to the socket at [Path]
// of path, whatever its URL says.
func HTTPClient(path string) *awshttp.BuildableClient {
	path = Path(path)
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return connect(ctx, path)
		}
		t.DisableCompression = true
		t.MaxIdleConns, t.MaxIdleConnsPerHost = 256, 256
		t.IdleConnTimeout = 90 * time.Second
	})
}

// New returns an SDK client for the daemon at [Path] of path. Its
// GenerateDataKey and its Decrypt of a data key work only where the daemon is
// configured to give out plaintext data keys; see [NewEnvelopeClient].
func New(path string, opts ...Option) *kms.Client {
	return kms.NewFromConfig(Config(path, opts...))
}
