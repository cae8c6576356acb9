package kms

import (
	"encoding/base64"
	"iter"

	"cmkd/socket/kmsapi"
)

// Markers are opaque to clients: the ID of the last row shown, so that a list
// that changes between two pages neither repeats nor skips what was there all
// along.
const markerPrefix = "1:"

func encodeMarker(last string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(markerPrefix + last))
}

// decodeMarker returns the row to start after, "" without a marker.
func decodeMarker(marker string) (string, error) {
	if marker == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(marker)
	if err != nil || len(raw) <= len(markerPrefix) || string(raw[:len(markerPrefix)]) != markerPrefix {
		return "", errInvalidMarker()
	}
	return string(raw[len(markerPrefix):]), nil
}

func errInvalidMarker() error {
	return kmsapi.Errorf(kmsapi.CodeInvalidMarkerException, "The marker is not valid.")
}

// limit is the page length asked for, or the operation's default.
func limit(asked int32, preset int) int {
	if asked > 0 {
		return int(asked)
	}
	return preset
}

// page takes at most n rows and returns the marker of the next page, "" if
// there is none.
func page[T any](rows iter.Seq[T], n int, id func(T) string) (list []T, next string) {
	for r := range rows {
		if len(list) == n {
			return list, encodeMarker(id(list[n-1]))
		}
		list = append(list, r)
	}
	return list, ""
}
