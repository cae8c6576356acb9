package kmsapi

import (
	"encoding/base64"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// The generated AppendJSON methods write every member as `,"Name":value`;
// closeObject then turns the first comma into the opening brace.

// closeObject ends the object that starts at b[start].
func closeObject(b []byte, start int) []byte {
	if len(b) == start {
		return append(b, '{', '}')
	}
	b[start] = '{'
	return append(b, '}')
}

// appendText writes a JSON string. Bytes that are not UTF-8 become U+FFFD: an answer is always valid JSON.
func appendText[S ~string](b []byte, s S) []byte {
	b, _ = jsontext.AppendQuote(b, string(s))
	return b
}

func appendBlob(b, blob []byte) []byte {
	b = base64.StdEncoding.AppendEncode(append(b, '"'), blob)
	return append(b, '"')
}

// appendTime writes seconds since the epoch with at most three decimals.
func appendTime(b []byte, t time.Time) []byte {
	ms := t.UnixMilli()
	if ms < 0 {
		b, ms = append(b, '-'), -ms
	}
	b = strconv.AppendInt(b, ms/1000, 10)
	if ms %= 1000; ms == 0 {
		return b
	}
	b = append(b, '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10))
	for b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	return b
}

func appendTexts[S ~string](b []byte, list []S) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, s)
	}
	return append(b, ']')
}

// appender is a pointer to a generated structure that has an encoder.
type appender[T any] interface {
	*T
	AppendJSON(b []byte) []byte
}

func appendObjects[T any, P appender[T]](b []byte, list []T) []byte {
	b = append(b, '[')
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = P(&list[i]).AppendJSON(b)
	}
	return append(b, ']')
}

// appendMap writes the members in the order of their names, so that equal maps give equal bytes.
func appendMap(b []byte, m map[string]string) []byte {
	start := len(b)
	for _, name := range slices.Sorted(maps.Keys(m)) {
		b = appendText(append(b, ','), name)
		b = appendText(append(b, ':'), m[name])
	}
	return closeObject(b, start)
}
