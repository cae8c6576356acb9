package audit

import (
	"bytes"
	"errors"
)

// After hands every line behind the record with the sequence to f, oldest
// first, like [Scan]. It reads only the segments that it needs.
func (l *Log) After(sequence uint64, f func(line []byte) error) error {
	segments, err := listSegments(l.cfg.Dir)
	if err != nil {
		return err
	}
	first := len(segments) - 1
	for ; first > 0; first-- {
		begins, err := firstSequence(segments[first])
		if err != nil {
			return err
		}
		if begins != 0 && begins <= sequence+1 {
			break
		}
	}
	for _, s := range segments[max(first, 0):] {
		if err := s.scan(func(line []byte) error {
			if lineSequence(line) <= sequence {
				return nil
			}
			return f(line)
		}); err != nil {
			return err
		}
	}
	return nil
}

// errFound ends a scan.
var errFound = errors.New("found")

// firstSequence is that of a segment's first record, 0 if it has none.
func firstSequence(s segment) (sequence uint64, err error) {
	err = s.scan(func(line []byte) error {
		sequence = lineSequence(line)
		return errFound
	})
	if err == errFound { //nolint:errorlint // it is our own
		err = nil
	}
	return sequence, err
}

// lineSequence reads a line's sequence without verifying it: 0 if there is none.
func lineSequence(line []byte) (sequence uint64) {
	at := chainAt(line)
	if at < 0 || !bytes.HasPrefix(line[at:], []byte(versionName)) {
		return 0
	}
	for _, c := range line[at+len(versionName):] {
		if c < '0' || c > '9' {
			break
		}
		sequence = sequence*10 + uint64(c-'0')
	}
	return sequence
}
