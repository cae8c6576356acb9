package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Scan hands every whole line of the log in a directory to f, oldest first,
// without verifying it. The line is good until f returns. It stops at f's first
// error, which it returns. A log that is being written to may be scanned: it
// ends with what is there.
func Scan(dir string, f func(line []byte) error) error {
	segments, err := listSegments(dir)
	if err != nil {
		return err
	}
	for _, s := range segments {
		if err := s.scan(f); err != nil {
			return err
		}
	}
	return nil
}

func (s segment) scan(f func(line []byte) error) error {
	file, err := s.openRead()
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read
	lines := bufio.NewReaderSize(file, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return nil // what is after the last newline is still being written
		case err != nil:
			return fmt.Errorf("reading %s: %w", s.path(), err)
		}
		if err := f(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
			return err
		}
	}
}
