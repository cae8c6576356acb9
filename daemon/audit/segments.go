package audit

import (
	"os"

	"cmkd/daemon/audit/event"
)

// Segment is one file of a log, for those who read it beside its writer.
type Segment struct{ segment segment }

// Segments returns the segments in a directory, oldest first. It does not
// complain of one that is missing between two, which [VerifyDir] does.
func Segments(dir string) ([]Segment, error) {
	named, err := namedSegments(dir)
	if err != nil {
		return nil, err
	}
	segments := make([]Segment, len(named))
	for i, s := range named {
		segments[i] = Segment{s}
	}
	return segments, nil
}

// Number counts from 1, also over segments that were pruned.
func (s Segment) Number() int { return s.segment.number }

// Path is that of the file.
func (s Segment) Path() string { return s.segment.path() }

// Open opens the file to read it. What is not a regular file is refused with
// [ErrFile].
func (s Segment) Open() (*os.File, error) { return s.segment.openRead() }

// MaxLine is the length of the longest line, in bytes with its newline.
const MaxLine = maxLine

// LineSequence reads the sequence of a line without verifying it: 0 if there is
// none.
func LineSequence(line []byte) uint64 { return lineSequence(line) }

// LineBody is the line up to the members that chain it, without a closing brace: all
// of a line that is not a record.
func LineBody(line []byte) []byte {
	if at := chainAt(line); at >= 0 {
		return line[:at]
	}
	return line
}

// LineTime reads the eventTime of a line, in RFC 3339 with milliseconds and in
// UTC, so that texts compare like times: "" if there is none.
func LineTime(line []byte) string { return eventTime(line) }

// TimeFormat is that of eventTime.
const TimeFormat = event.TimeFormat

// LineHash reads the hash of a line without verifying it.
func LineHash(line []byte) (hash [32]byte, ok bool) {
	if len(line) < len(lineEnd)-1 {
		return hash, false
	}
	_, ok = cutHash(&hash, line[:len(line)-len(lineEnd)+1], hashName)
	return hash, ok
}
