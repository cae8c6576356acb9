// Package paging cuts lists into pages, with markers that stay valid while the list changes.
package paging

import (
	"crypto/sha256"
	"encoding/base64"
	"iter"

	"cmkd/daemon/ciphertext"
	"cmkd/daemon/journal"
	"cmkd/socket/kmsapi"
)

// Markers are opaque to clients. One holds, in unpadded URL-safe base64:
//
//	offset  length  field
//	0       1       version, 2
//	1       8       what the list is of: the start of SHA-256 of [List.scope]
//	9       n       the ID of the last row shown
//
// The ID, and no position: a list that changes between two pages neither repeats
// nor skips what was there all along. A marker of another list is not valid.
const (
	markerVersion  = 2
	markerScopeLen = 8
)

// List is one of the lists that calls page through.
type List struct {
	operation string
	region    string
	Of        string // what the list belongs to: a key's ID or a principal, "" nothing
}

// ListOf is the list that the call pages through.
func ListOf(c *journal.Call, of string) List {
	return List{operation: c.Op.Operation(), region: c.Region, Of: of}
}

// scope is the same for two lists only if they are one.
func (l List) scope() [markerScopeLen]byte {
	text := ciphertext.AppendString(ciphertext.AppendString(ciphertext.AppendString(nil, l.operation), l.region), l.Of)
	sum := sha256.Sum256(text)
	return [markerScopeLen]byte(sum[:])
}

func (l List) encodeMarker(last string) string {
	scope := l.scope()
	return base64.RawURLEncoding.EncodeToString(append(append([]byte{markerVersion}, scope[:]...), last...))
}

// DecodeMarker returns the row to start after, "" without a marker.
func (l List) DecodeMarker(marker string) (string, error) {
	if marker == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(marker)
	if err != nil || len(raw) <= 1+markerScopeLen || raw[0] != markerVersion || [markerScopeLen]byte(raw[1:]) != l.scope() {
		return "", ErrInvalidMarker()
	}
	return string(raw[1+markerScopeLen:]), nil
}

// ErrInvalidMarker refuses a marker that is not of the list.
func ErrInvalidMarker() error {
	return kmsapi.Errorf(kmsapi.CodeInvalidMarkerException, "The marker is not valid.")
}

// Limit is the page length asked for, or the operation's default.
func Limit(asked int32, preset int) int {
	if asked > 0 {
		return int(asked)
	}
	return preset
}

// Page takes at most n rows of the list and returns the marker of the next page,
// "" if there is none.
func Page[T any](l List, rows iter.Seq[T], n int, id func(T) string) (shown []T, next string) {
	for r := range rows {
		if len(shown) == n {
			return shown, l.encodeMarker(id(shown[n-1]))
		}
		shown = append(shown, r)
	}
	return shown, ""
}
