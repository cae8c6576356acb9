// Package plain reads the header of the one kind of request that AWS's SDKs make: POST / of
// HTTP/1.1 with a body of stated length and nothing that asks for more of HTTP. Whatever
// deviates from that in any way, be it allowed, malformed or only unusual, is not plain, and
// is left to net/http.
package plain

import (
	"bytes"
	"net/http"
	"net/textproto"
)

const (
	requestLine = "POST / HTTP/1.1\r\n"
	// maxFields is the largest number of header fields; SDKs send about 15.
	maxFields = 64
	// MaxBody is the largest body of a plain request, in bytes.
	MaxBody = 64 << 10
)

// Head is the header of a plain request. It is kept from one request of a connection to the
// next: the fields that stay the same, most of them, are taken from the one before. So what a
// request's reader takes from it is valid, and must be left alone, until the next [Head.Parse].
// The zero value is ready.
type Head struct {
	Header http.Header // without Host, as net/http has it
	Host   string
	Length int // of the body in bytes, at least 1

	fields []field // in the order in which they came
}

// field is a header field.
type field struct {
	name   string // as sent
	key    string // its canonical form
	values []string
}

// Parse reads the header of a request at the start of b and returns its length in bytes, the
// empty line included. It returns 0 if b does not start with the whole header of a plain
// request; then the Head is of no more use.
func (h *Head) Parse(b []byte) int {
	rest, found := bytes.CutPrefix(b, []byte(requestLine))
	if !found {
		return 0
	}
	h.Host, h.Length = "", 0
	for n := 0; ; n++ {
		line, after, found := bytes.Cut(rest, []byte("\n"))
		line, crlf := bytes.CutSuffix(line, []byte("\r"))
		if !found || !crlf {
			return 0
		}
		rest = after
		if len(line) == 0 {
			h.drop(n)
			break
		}
		name, value, colon := bytes.Cut(line, []byte(":"))
		value = bytes.Trim(value, " ")
		if n == maxFields || !colon || !isToken(name) || !isVisible(value) {
			return 0
		}
		if !h.set(n, name, value) || !h.understand(&h.fields[n]) {
			return 0
		}
	}
	if h.Host == "" || h.Length == 0 {
		return 0
	}
	return len(b) - len(rest)
}

// set makes name and value the n-th field. It fails if there is one of that name.
func (h *Head) set(n int, name, value []byte) bool {
	if n < len(h.fields) && h.fields[n].name == string(name) {
		if f := &h.fields[n]; f.values[0] != string(value) {
			f.values[0] = string(value)
		}
		return true
	}
	h.drop(n)
	f := field{name: string(name), values: []string{string(value)}}
	f.key = textproto.CanonicalMIMEHeaderKey(f.name)
	for i := range h.fields {
		if h.fields[i].key == f.key {
			return false
		}
	}
	h.fields = append(h.fields, f)
	if f.key == "Host" {
		return true
	}
	if h.Header == nil {
		h.Header = http.Header{}
	}
	h.Header[f.key] = f.values
	return true
}

// drop removes the fields from the n-th on.
func (h *Head) drop(n int) {
	if n >= len(h.fields) {
		return
	}
	for i := range h.fields[n:] {
		delete(h.Header, h.fields[n+i].key)
	}
	clear(h.fields[n:])
	h.fields = h.fields[:n]
}

// understand heeds what f says about the message. It fails if that is more than a plain request
// says.
func (h *Head) understand(f *field) bool {
	value := f.values[0]
	switch f.key {
	case "Host":
		h.Host = value
		return isHost(value)
	case "Content-Length":
		h.Length = length(value)
		return h.Length > 0
	case "Connection":
		return value == "keep-alive" || value == "Keep-Alive"
	case "Transfer-Encoding", "Trailer", "Te", "Expect", "Upgrade", "Pragma", "Http2-Settings":
		return false
	default:
		return true
	}
}

// length is the number that s is, from 1 to MaxBody in its shortest form, or 0.
func length(s string) int {
	if s == "" || s[0] == '0' {
		return 0
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0
		}
		if n = 10*n + int(s[i]-'0'); n > MaxBody {
			return 0
		}
	}
	return n
}

// isToken reports whether name can be that of a field (RFC 9110, section 5.6.2), in the
// characters that names are made of.
func isToken(name []byte) bool {
	for _, c := range name {
		if !isAlphanumeric(c) && c != '-' && c != '_' {
			return false
		}
	}
	return len(name) > 0
}

// isVisible reports whether value has nothing but spaces and the visible characters of ASCII.
func isVisible(value []byte) bool {
	for _, c := range value {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// isHost reports whether s is a name or an address, with or without a port.
func isHost(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case isAlphanumeric(c):
		case c == '.' || c == '-' || c == '_' || c == ':' || c == '[' || c == ']':
		default:
			return false
		}
	}
	return s != ""
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
