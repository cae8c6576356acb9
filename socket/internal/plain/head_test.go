package plain_test

import (
	"bufio"
	"bytes"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"cmkd/socket/internal/plain"
)

const start = "POST / HTTP/1.1\r\nHost: localhost\r\n"

// TestParse: what SDKs send is plain. What is malformed, ambiguous or unusual is not.
func TestParse(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		request string
		plain   bool
	}{
		"smallest":         {start + "Content-Length: 2\r\n\r\n{}", true},
		"without body yet": {start + "Content-Length: 2\r\n\r\n", true},
		"Go": {start + "User-Agent: aws-sdk-go-v2/1.30.3 os/linux lang/go#1.23 md/GOOS#linux api/kms#1.35.3\r\nContent-Length: 13\r\n" +
			"Amz-Sdk-Invocation-Id: 5ae3a1ad\r\nAmz-Sdk-Request: attempt=1; max=3\r\n" +
			"Authorization: AWS4-HMAC-SHA256 Credential=a/20260101/eu-central-1/kms/aws4_request, SignedHeaders=content-length;host, Signature=0f\r\n" +
			"Content-Type: application/x-amz-json-1.1\r\nX-Amz-Date: 20260101T000000Z\r\nX-Amz-Target: TrentService.ListKeys\r\nAccept-Encoding: gzip\r\n\r\n", true},
		"Node":                  {"POST / HTTP/1.1\r\ncontent-type: application/x-amz-json-1.1\r\nhost: localhost\r\ncontent-length: 2\r\nConnection: keep-alive\r\n\r\n", true},
		"Java":                  {start + "Connection: Keep-Alive\r\nContent-Length: 2\r\n\r\n", true},
		"a port":                {"POST / HTTP/1.1\r\nHost: [::1]:8080\r\nContent-Length: 1\r\n\r\n", true},
		"spaces":                {"POST / HTTP/1.1\r\nHost:localhost  \r\nContent-Length:   1 \r\n\r\n", true},
		"an empty value":        {start + "X-Empty:\r\nContent-Length: 1\r\n\r\n", true},
		"the largest":           {start + "Content-Length: 65536\r\n\r\n", true},
		"one byte more":         {start + "Content-Length: 65537\r\n\r\n", false},
		"nothing":               {"", false},
		"the line":              {"POST / HTTP/1.1\r\n", false},
		"half a field":          {start + "Content-Le", false},
		"no empty line":         {start + "Content-Length: 2\r\n", false},
		"no body":               {start + "\r\n", false},
		"an empty body":         {start + "Content-Length: 0\r\n\r\n", false},
		"GET":                   {"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", false},
		"a path":                {"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n", false},
		"a query":               {"POST /?x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n", false},
		"a URL":                 {"POST http://x/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n", false},
		"HTTP/1.0":              {"POST / HTTP/1.0\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n", false},
		"a line break ahead":    {"\r\n" + start + "Content-Length: 2\r\n\r\n", false},
		"no Host":               {"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n", false},
		"two Hosts":             {start + "Host: localhost\r\nContent-Length: 2\r\n\r\n", false},
		"an empty Host":         {"POST / HTTP/1.1\r\nHost:\r\nContent-Length: 2\r\n\r\n", false},
		"a path as Host":        {"POST / HTTP/1.1\r\nHost: a/b\r\nContent-Length: 2\r\n\r\n", false},
		"two lengths":           {start + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", false},
		"lengths differ":        {start + "Content-Length: 2\r\nContent-Length: 20\r\n\r\n{}", false},
		"a list of lengths":     {start + "Content-Length: 2, 2\r\n\r\n{}", false},
		"length and chunks":     {start + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", false},
		"chunks":                {start + "Transfer-Encoding: chunked\r\n\r\n", false},
		"chunks in capitals":    {start + "Content-Length: 2\r\nTRANSFER-ENCODING: chunked\r\n\r\n", false},
		"chunks, an odd name":   {start + "Content-Length: 2\r\nTransfer-Encoding : chunked\r\n\r\n", false},
		"a sign":                {start + "Content-Length: +2\r\n\r\n", false},
		"a minus":               {start + "Content-Length: -2\r\n\r\n", false},
		"hexadecimal":           {start + "Content-Length: 0x2\r\n\r\n", false},
		"a leading zero":        {start + "Content-Length: 02\r\n\r\n", false},
		"a huge length":         {start + "Content-Length: 18446744073709551617\r\n\r\n", false},
		"a length of no number": {start + "Content-Length: two\r\n\r\n", false},
		"bare LF":               {"POST / HTTP/1.1\nHost: localhost\nContent-Length: 2\n\n", false},
		"one bare LF":           {start + "X: y\nContent-Length: 2\r\n\r\n", false},
		"bare CR":               {start + "X: y\rContent-Length: 2\r\n\r\n", false},
		"an end of bare LF":     {start + "Content-Length: 2\r\n\n", false},
		"obs-fold":              {start + "X: y\r\n z\r\nContent-Length: 2\r\n\r\n", false},
		"obs-fold first":        {"POST / HTTP/1.1\r\n Host: localhost\r\nContent-Length: 2\r\n\r\n", false},
		"a tab":                 {start + "X: a\tb\r\nContent-Length: 2\r\n\r\n", false},
		"NUL":                   {start + "X: a\x00b\r\nContent-Length: 2\r\n\r\n", false},
		"above ASCII":           {start + "X: \xff\r\nContent-Length: 2\r\n\r\n", false},
		"a name above ASCII":    {start + "X\xff: y\r\nContent-Length: 2\r\n\r\n", false},
		"no name":               {start + ": y\r\nContent-Length: 2\r\n\r\n", false},
		"no colon":              {start + "X\r\nContent-Length: 2\r\n\r\n", false},
		"twice":                 {start + "X-A: 1\r\nx-a: 2\r\nContent-Length: 2\r\n\r\n", false},
		"close":                 {start + "Connection: close\r\nContent-Length: 2\r\n\r\n", false},
		"a hop-by-hop field":    {start + "Connection: content-length\r\nContent-Length: 2\r\n\r\n", false},
		"Expect":                {start + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", false},
		"Upgrade":               {start + "Upgrade: h2c\r\nContent-Length: 2\r\n\r\n", false},
		"Trailer":               {start + "Trailer: X\r\nContent-Length: 2\r\n\r\n", false},
		"64 fields":             {start + fields(62) + "Content-Length: 2\r\n\r\n", true},
		"65 fields":             {start + fields(63) + "Content-Length: 2\r\n\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var h plain.Head
			if n := h.Parse([]byte(tc.request)); (n > 0) != tc.plain {
				t.Fatalf("%d bytes of header, plain: %t", n, tc.plain)
			}
			if tc.plain {
				equal(t, &h, h.Parse([]byte(tc.request)), []byte(tc.request))
			}
		})
	}
}

// fields makes n header fields.
func fields(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("X-" + strings.Repeat("a", i+1) + ": y\r\n")
	}
	return b.String()
}

// equal compares what h says of request with what net/http does.
func equal(t *testing.T, h *plain.Head, length int, request []byte) {
	t.Helper()
	buffered := bufio.NewReaderSize(bytes.NewReader(request), 64<<10)
	r, err := http.ReadRequest(buffered)
	if err != nil {
		t.Fatalf("net/http: %v", err)
	}
	r.Header.Del("Host")
	if r.Method != http.MethodPost || r.RequestURI != "/" || r.URL.String() != "/" || r.Proto != "HTTP/1.1" || r.Close || len(r.TransferEncoding) > 0 || len(r.Trailer) > 0 {
		t.Errorf("net/http reads %+v", r)
	}
	if r.Host != h.Host || r.ContentLength != int64(h.Length) || !maps.EqualFunc(r.Header, h.Header, slices.Equal) {
		t.Errorf("net/http reads host %q, %d bytes, %v; here %q, %d, %v", r.Host, r.ContentLength, r.Header, h.Host, h.Length, h.Header)
	}
	if rest := buffered.Buffered(); len(request)-rest != length {
		t.Errorf("net/http reads a header of %d bytes, here it has %d", len(request)-rest, length)
	}
}

// TestParseAgain: the header of one request leaves nothing in that of the next.
func TestParseAgain(t *testing.T) { //nolint:paralleltest // it counts allocations
	var h plain.Head
	for _, fields := range []string{
		"A: 1\r\nB: 2\r\nContent-Length: 3\r\n", "A: 1\r\nB: 2\r\nContent-Length: 3\r\n",
		"A: 1\r\nB: 3\r\nContent-Length: 4\r\n", "A: 1\r\nContent-Length: 4\r\n", "Content-Length: 4\r\n",
		"Content-Length: 4\r\nB: 2\r\n", "b: 2\r\nContent-Length: 4\r\n", "B: 2\r\nA: 2\r\nContent-Length: 5\r\nC: 1\r\n",
	} {
		request := []byte(start + fields + "\r\n")
		equal(t, &h, h.Parse(request), request)
	}
	request := []byte(start + "Content-Length: 3\r\n\r\n")
	h.Parse(request)
	if n := testing.AllocsPerRun(100, func() { h.Parse(request) }); n != 0 {
		t.Errorf("the same header again: %v allocations", n)
	}
}

// FuzzParse: whatever is plain net/http understands in the same way, after any other
// request.
func FuzzParse(f *testing.F) {
	f.Add([]byte(start+"Content-Length: 2\r\n\r\n{}"), []byte(start+"X: y\r\nContent-Length: 12\r\n\r\n{}"))
	f.Add([]byte(start+"A: b\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"), []byte("POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var h plain.Head
		for _, request := range [][]byte{first, second} {
			length := h.Parse(request)
			if length == 0 {
				return
			}
			equal(t, &h, length, request)
		}
	})
}
