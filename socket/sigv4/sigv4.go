// Package sigv4 checks AWS Signature Version 4 on requests to an AWS JSON
// service, where the SDKs only make signatures.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	terminator = "aws4_request"
	timeFormat = "20060102T150405Z"
	// maxSkew is how far the clocks of client and server may be apart.
	maxSkew = 5 * time.Minute
)

// Error is the refusal of a request, in AWS's words. Its HTTP status is 400,
// as for every client error of the JSON protocols.
type Error struct {
	Code    string // such as InvalidSignatureException
	Message string
}

// Error implements error.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

func errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

const (
	codeMissing      = "MissingAuthenticationTokenException"
	codeIncomplete   = "IncompleteSignatureException"
	codeInvalid      = "InvalidSignatureException"
	codeUnrecognized = "UnrecognizedClientException"
	codeThrottling   = "ThrottlingException"
)

// Verifier checks requests signed for one service.
type Verifier struct {
	// Service is the name in the credential's scope, such as "kms".
	Service string
	// Secret returns the secret access key of an access key ID, false if there
	// is none.
	Secret func(accessKeyID string) (string, bool)
	// Now is the clock, default [time.Now].
	Now func() time.Time
}

// Identity is what a good signature proves, and the Region it names.
type Identity struct {
	AccessKeyID string
	Region      string
	// Date is when the request says that it was signed, and Signature what
	// tells it from every other request of that second: see [Replays].
	Date      time.Time
	Signature [sha256.Size]byte
	// Unique: the request carries, signed, the SDKs' Amz-Sdk-Invocation-Id, so
	// no two calls have the same signature.
	Unique bool
}

// Verify checks the signature in r's Authorization header, of which body is
// the whole body. The error is an [*Error]. A request is good for five minutes
// around its date and may be repeated in that time, unless [Replays] is asked
// too: whoever can read it can also replay it.
//
// The canonical request is built here and not by an SDK's signer, because each
// SDK leaves other headers out: the SDK for Java signs User-Agent, which the
// one for Go never would. What counts is what SignedHeaders lists.
func (v *Verifier) Verify(r *http.Request, body []byte) (Identity, error) {
	c, err := v.Header(r)
	if err != nil {
		return Identity{}, err
	}
	return c.Verify(body)
}

// Claim is what the header of a request claims, before its body is read.
type Claim struct {
	request *http.Request
	auth    *authorization
	secret  string
	date    string // as written
}

// Header checks all that the header alone tells: that the URL is the service's,
// that the access key exists, that the scope of the credential and the date
// are good, and that what must be signed is said to be. The error is an
// [*Error]. It proves nothing, but who does not get past it need not be
// listened to any longer.
func (v *Verifier) Header(r *http.Request) (*Claim, error) {
	auth, err := parseAuthorization(r.Header["Authorization"])
	if err != nil {
		return nil, err
	}
	if r.URL.EscapedPath() != "/" || r.URL.RawQuery != "" || r.URL.ForceQuery {
		// JSON protocols know no other URL, so there is nothing to canonicalise.
		return nil, errorf("UnknownOperationException", "The requested URL is not that of an operation.")
	}
	date, err := v.checkDate(r, auth)
	if err != nil {
		return nil, err
	}
	if auth.service != v.Service {
		return nil, errorf(codeInvalid, "Credential should be scoped to correct service: '%s'.", v.Service)
	}
	if err := checkSignedHeaders(r, auth.signedHeaders); err != nil {
		return nil, err
	}
	if r.Header.Get("X-Amz-Security-Token") != "" {
		return nil, errorf(codeUnrecognized, "The security token included in the request is invalid.")
	}
	secret, ok := v.Secret(auth.accessKeyID)
	if !ok {
		return nil, errorf(codeUnrecognized, "The security token included in the request is invalid.")
	}
	return &Claim{request: r, auth: auth, secret: secret, date: date}, nil
}

// Verify checks the signature over the header and body. The error is an
// [*Error].
func (c *Claim) Verify(body []byte) (Identity, error) {
	payload := hex.EncodeToString(hash(body))
	// Some SDKs send the hash too. It is signed or not, but it must be right.
	for _, claimed := range c.request.Header["X-Amz-Content-Sha256"] {
		if claimed != payload {
			return Identity{}, errorf(codeInvalid, "The value of 'X-Amz-Content-Sha256' does not match the hash of the body.")
		}
	}
	canonical, err := canonicalRequest(c.request, c.auth.signedHeaders, payload)
	if err != nil {
		return Identity{}, err
	}
	want := sign(c.secret, c.date, c.auth, canonical)
	if subtle.ConstantTimeCompare(want, c.auth.signature) != 1 {
		return Identity{}, errorf(codeInvalid, "The request signature we calculated does not match the signature you provided. "+
			"Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	}
	at, _ := time.Parse(timeFormat, c.date) // checkDate has
	return Identity{
		AccessKeyID: c.auth.accessKeyID, Region: c.auth.region, Date: at, Signature: [sha256.Size]byte(c.auth.signature),
		Unique: slices.Contains(c.auth.signedHeaders, "amz-sdk-invocation-id"),
	}, nil
}

// checkDate returns the date of the request as written in it.
func (v *Verifier) checkDate(r *http.Request, auth *authorization) (string, error) {
	dates := r.Header["X-Amz-Date"]
	if len(dates) != 1 {
		return "", errorf(codeIncomplete, "Authorization header requires existence of one 'X-Amz-Date' header.")
	}
	date := dates[0]
	at, err := time.Parse(timeFormat, date)
	if err != nil {
		return "", errorf(codeIncomplete, "Date must be in ISO-8601 'basic format'. Got '%s'. See http://en.wikipedia.org/wiki/ISO_8601", quotable(date))
	}
	if !strings.HasPrefix(date, auth.date) {
		return "", errorf(codeInvalid, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '%s' != '%s', from '%s'.",
			auth.date, date[:8], date)
	}
	now := time.Now
	if v.Now != nil {
		now = v.Now
	}
	t := now().UTC()
	if oldest := t.Add(-maxSkew); at.Before(oldest) {
		return "", errorf(codeInvalid, "Signature expired: %s is now earlier than %s (%s - 5 min.)", date, oldest.Format(timeFormat), t.Format(timeFormat))
	}
	if newest := t.Add(maxSkew); at.After(newest) {
		return "", errorf(codeInvalid, "Signature not yet current: %s is still later than %s (%s + 5 min.)", date, newest.Format(timeFormat), t.Format(timeFormat))
	}
	return date, nil
}

// mustSign are headers that a signature must cover: without the first it would
// be good for another server, without the second for another time, and without
// the third for another operation.
var mustSign = []string{"host", "x-amz-date", "x-amz-target"}

func checkSignedHeaders(r *http.Request, signedHeaders []string) error {
	for _, name := range mustSign {
		present := name == "host" || len(r.Header.Values(name)) > 0
		if present && !slices.Contains(signedHeaders, name) {
			return errorf(codeInvalid, "'%s' must be a 'SignedHeader' in the AWS Authorization.", name)
		}
	}
	for _, name := range signedHeaders {
		if _, err := headerValues(r, name); err != nil {
			return err
		}
	}
	return nil
}

// canonicalRequest is the request in the form that is signed, for exactly the
// headers listed.
func canonicalRequest(r *http.Request, signedHeaders []string, payload string) (string, error) {
	var b strings.Builder
	b.WriteString(r.Method)
	b.WriteString("\n/\n\n")
	for _, name := range signedHeaders {
		values, err := headerValues(r, name)
		if err != nil {
			return "", err
		}
		b.WriteString(name)
		b.WriteByte(':')
		for i, value := range values {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strings.Join(strings.Fields(value), " "))
		}
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	b.WriteString(strings.Join(signedHeaders, ";"))
	b.WriteByte('\n')
	b.WriteString(payload)
	return b.String(), nil
}

// headerValues returns the values of a header by its lower-case name, also of
// those that net/http takes out of the header.
func headerValues(r *http.Request, name string) ([]string, error) {
	switch name {
	case "host":
		return []string{r.Host}, nil
	case "content-length":
		return []string{strconv.FormatInt(max(r.ContentLength, 0), 10)}, nil
	case "transfer-encoding":
		return r.TransferEncoding, nil
	}
	values := r.Header.Values(name)
	if len(values) == 0 {
		return nil, errorf(codeInvalid, "The header '%s' is signed and not present.", quotable(name))
	}
	return values, nil
}

// sign computes the signature over a canonical request.
func sign(secret, date string, auth *authorization, canonical string) []byte {
	scope := strings.Join([]string{auth.date, auth.region, auth.service, terminator}, "/")
	stringToSign := strings.Join([]string{algorithm, date, scope, hex.EncodeToString(hash([]byte(canonical)))}, "\n")
	key := mac([]byte("AWS4"+secret), auth.date)
	key = mac(key, auth.region)
	key = mac(key, auth.service)
	key = mac(key, terminator)
	return mac(key, stringToSign)
}

func mac(key []byte, message string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(message))
	return h.Sum(nil)
}

// hash is SHA-256. Bodies have plaintexts in them, and the state keeps what does not fill a block,
// also when it is reset, and Sum leaves a copy of it on the stack: zeros take their place.
func hash(b []byte) []byte {
	state := sha256.New()
	state.Write(b)
	sum := state.Sum(nil)
	state.Reset()
	var zeros [sha256.BlockSize - 1]byte
	state.Write(zeros[:])
	state.Sum(nil)
	return sum
}
