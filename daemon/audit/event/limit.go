package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Everything in a record that somebody else chooses has a limit of its own, in
// bytes of the record: escaped, as they are written. What is longer is cut and
// marked with its length and SHA-256, so that it can be recognised, and the
// rest of the record stays. CloudTrail's limits are 1 KB for userAgent and
// errorMessage and 100 KB for requestParameters and responseElements.
// https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html
const (
	maxName      = 128     // names and identifiers
	maxARN       = 1 << 10 // of the caller and of a resource
	maxWords     = 1 << 10 // userAgent, errorMessage, reason
	maxElements  = 100 << 10
	maxDetails   = 40 << 10 // recipient, details, serviceEventDetails
	maxResources = 8 << 10  // all of them; the first ones are kept
)

// fixedRoom bounds a record without its JSON values, chain included: the sum of
// the limits above and of what has a fixed size.
const fixedRoom = 18 << 10

// ChainRoom is what fixedRoom keeps for the chain that is added to a record, in bytes.
const ChainRoom = 256

// RoomSize is what a call reserves, see [Log.Reserve]: room for the fixed part
// and for 4 KiB of JSON values, which holds those of nearly all calls whole.
const RoomSize = fixedRoom + 4<<10

// limits are those of one record.
type limits struct {
	userAgent, message int
	request, response  int
	details            int // each of recipient, details, serviceEventDetails
}

var full = limits{userAgent: maxWords, message: maxWords, request: maxElements, response: maxElements, details: maxDetails}

// terse is for the words of strangers: 1 KiB in all.
var terse = limits{userAgent: 192, message: 320, request: 512, response: 512, details: 512}

// within shrinks the limits so that the values, whose sizes are known now, fit
// into so many bytes.
func (l limits) within(room int, v values) limits {
	t := level([]int{v.request, v.response, v.recipient, v.details, v.event}, room)
	l.request, l.response, l.details = min(l.request, t), min(l.response, t), min(l.details, t)
	return l
}

// values are the sizes of a record's JSON values, in bytes.
type values struct{ request, response, recipient, details, event int }

func (v *values) sum() int { return v.request + v.response + v.recipient + v.details + v.event }

// level is the greatest limit under which the sizes take at most room bytes
// together when each larger one is cut to it.
func level(sizes []int, room int) int {
	slices.Sort(sizes)
	for i, n := range sizes {
		if share := room / (len(sizes) - i); n > share {
			return max(share, 0)
		}
		room -= n
	}
	if len(sizes) == 0 {
		return room
	}
	return sizes[len(sizes)-1]
}

// appendBounded appends a JSON string of at most limit bytes, quotes included.
func appendBounded(dst []byte, s string, limit int) []byte {
	start := len(dst)
	if len(s) <= limit {
		if dst, _ = jsontext.AppendQuote(dst, s); len(dst)-start <= limit {
			return dst
		}
	}
	sum := sha256.Sum256([]byte(s))
	mark := fmt.Sprintf("…[%d bytes, SHA-256 %x]", len(s), sum)
	dst, _ = jsontext.AppendQuote(dst[:start], prefix(s, limit-len(mark)-2)+mark)
	return dst
}

// prefix is the longest valid beginning of s that takes at most limit bytes as
// the inside of a JSON string.
func prefix(s string, limit int) string {
	if limit <= 0 {
		return ""
	}
	if len(s) > limit { // a character never takes less than its own length
		n := limit
		for n > 0 && n > limit-utf8.UTFMax && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	for {
		quoted, _ := jsontext.AppendQuote(nil, s)
		over := len(quoted) - 2 - limit
		if over <= 0 || s == "" {
			return s
		}
		n := len(s) - max(1, over/maxEscape)
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
}

// maxEscape is how many bytes of JSON a byte can take: \u00XX.
const maxEscape = 6

// markSize is what a mark takes at most without the beginning that it shows.
const markSize = len(`{"truncated":"","length":,"sha256":""}`) + 10 + 2*sha256.Size

// appendCut appends the JSON value, which is formatted and longer than limit
// bytes, cut: of an object each member separately, the longest first.
func appendCut(dst []byte, value []byte, limit int) []byte {
	members, ok := membersOf(value)
	if !ok {
		return appendMark(dst, value, limit)
	}
	sizes, names := make([]int, len(members)), 2
	for i, m := range members {
		sizes[i] = len(m.value)
		names += len(m.name) + len(`:,`)
	}
	most := level(sizes, limit-names)
	if most < markSize {
		return appendMark(dst, value, limit)
	}
	dst = append(dst, '{')
	for i, m := range members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(dst, m.name...), ':')
		if len(m.value) <= most {
			dst = append(dst, m.value...)
		} else {
			dst = appendMark(dst, m.value, most)
		}
	}
	return append(dst, '}')
}

// member is one of a JSON object, as it is written.
type member struct{ name, value []byte }

func membersOf(object []byte) (members []member, ok bool) {
	dec := jsontext.NewDecoder(bytes.NewReader(object))
	if token, err := dec.ReadToken(); err != nil || token.Kind() != '{' {
		return nil, false
	}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadValue()
		if err != nil {
			return nil, false
		}
		name = bytes.Clone(name)
		value, err := dec.ReadValue()
		if err != nil {
			return nil, false
		}
		members = append(members, member{name, bytes.Clone(value)})
	}
	return members, true
}

// appendMark appends what stands for a JSON value that is too long. The length
// and the hash of a string are those of its characters (UTF-8), those of any
// other value those of its JSON.
//
//	{"truncated":"the beginning","length":N,"sha256":"H"}
func appendMark(dst, value []byte, limit int) []byte {
	text := string(value)
	if len(value) > 0 && value[0] == '"' {
		if plain, err := jsontext.AppendUnquote(nil, value); err == nil {
			text = string(plain)
		}
	}
	sum := sha256.Sum256([]byte(text))
	dst = append(dst, `{"truncated":`...)
	dst, _ = jsontext.AppendQuote(dst, prefix(text, limit-markSize))
	dst = strconv.AppendInt(append(dst, `,"length":`...), int64(len(text)), 10)
	return append(hex.AppendEncode(append(dst, `,"sha256":"`...), sum[:]), `"}`...)
}
