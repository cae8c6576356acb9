package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/go-json-experiment/json"
	"golang.org/x/sys/unix"
)

// end is where a log that is opened goes on.
type end struct {
	position
	head             link
	signed, signedBy uint64 // the last checkpoint's
	torn             torn
}

// torn describes an end that was moved aside, if Bytes is not 0: the
// serviceEventDetails of the record that tells of it.
type torn struct {
	Segment string `json:"segment"`
	Offset  int64  `json:"offset"`
	Bytes   int64  `json:"bytes"`
	SHA256  string `json:"sha256"`
	MovedTo string `json:"movedTo"`
}

// findEnd verifies the last segment, repairs a torn end and opens the segment
// to append to it. It creates the first one.
func findEnd(dir string) (*end, error) {
	segments, err := listSegments(dir)
	if err != nil {
		return nil, err
	}
	if len(segments) == 0 {
		first := segment{dir: dir, number: 1}
		f, err := first.create()
		if err != nil {
			return nil, err
		}
		return &end{position: position{segment: first, file: f}}, nil
	}
	e := &end{position: position{segment: segments[len(segments)-1]}}
	if err := e.verify(segments); err != nil {
		return nil, err
	}
	if e.file, err = e.segment.open(); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *end) verify(segments []segment) error {
	var v verifier
	path := e.segment.path()
	err := v.file(path)
	if errors.Is(err, ErrTorn) {
		e.torn, err = setAside(path, v.size)
	}
	if err != nil {
		return err
	}
	e.size = v.size
	before := len(segments) - 2
	switch {
	case v.report.Records > 0 && before >= 0:
		if err := v.checkStart(segments[before].path(), path); err != nil {
			return err
		}
	case v.report.Records > 0:
	case before >= 0:
		// The crash came between beginning a segment and writing to it.
		if err := v.file(segments[before].path()); err != nil {
			return err
		}
		fallthrough
	default:
		if v.report.Records == 0 && e.segment.number > 1 {
			return &ChainError{File: path, Line: 1, Err: fmt.Errorf("%w: there is no record to go on from", ErrChain)}
		}
	}
	e.head, e.signed, e.signedBy = v.last, v.signed, v.signedBy
	return nil
}

// checkStart checks that the records that v has read follow those in the
// segment before.
func (v *verifier) checkStart(before, path string) error {
	last, err := lastRecord(before)
	if err != nil {
		return err
	}
	first := record{link: link{sequence: v.report.First}, previous: v.report.PreviousHash}
	if err := last.follow(first); err != nil {
		return &ChainError{File: path, Line: 1, Sequence: last.sequence + 1, Err: err}
	}
	return nil
}

// lastRecord reads the last line of a segment.
func lastRecord(path string) (record, error) {
	f, err := os.Open(path)
	if err != nil {
		return record{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return record{}, err
	}
	if size == 0 {
		return record{}, &ChainError{File: path, Err: fmt.Errorf("%w: the segment is empty", ErrChain)}
	}
	from := max(0, size-int64(maxLine)-1)
	tail, err := io.ReadAll(io.NewSectionReader(f, from, size-from))
	if err != nil {
		return record{}, err
	}
	line, ok := bytes.CutSuffix(tail, []byte("\n"))
	if !ok {
		return record{}, &ChainError{File: path, Err: ErrTorn}
	}
	r, err := parse(line[bytes.LastIndexByte(line, '\n')+1:])
	if err != nil {
		return record{}, &ChainError{File: path, Err: fmt.Errorf("last line: %w", err)}
	}
	return r, nil
}

// setAside moves what is behind offset to a file of its own.
func setAside(path string, offset int64) (torn, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return torn{}, err
	}
	defer f.Close() //nolint:errcheck // synced
	to, err := createTorn(path)
	if err != nil {
		return torn{}, fmt.Errorf("moving a torn record aside: %w", err)
	}
	defer to.Close() //nolint:errcheck // synced
	sum := sha256.New()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return torn{}, err
	}
	n, err := io.Copy(io.MultiWriter(to, sum), f)
	if err == nil {
		err = errors.Join(to.Sync(), syncDir(filepath.Dir(path)))
	}
	if err == nil {
		err = errors.Join(f.Truncate(offset), f.Sync())
	}
	if err != nil {
		return torn{}, fmt.Errorf("moving a torn record aside: %w", err)
	}
	return torn{
		Segment: filepath.Base(path), Offset: offset, Bytes: n,
		SHA256: hex.EncodeToString(sum.Sum(nil)), MovedTo: filepath.Base(to.Name()),
	}, nil
}

// createTorn creates a file beside the segment with a name not yet taken.
func createTorn(path string) (*os.File, error) {
	for n := 1; ; n++ {
		f, err := os.OpenFile(fmt.Sprintf("%s.torn-%d", path, n), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if !errors.Is(err, os.ErrExist) {
			return f, err
		}
	}
}

func (l *Log) reportRepair(ctx context.Context, t torn) error {
	details, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if _, err = l.append(ctx, ownRecord(repairEvent, details), true); err != nil {
		return fmt.Errorf("recording a repair: %w", err)
	}
	return nil
}
