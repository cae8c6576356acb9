package audit

import (
	"bufio"
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
	begin            beginning
	torn             torn
	problem          error // why the trail goes on behind a hole
}

// torn describes an end that was moved aside, if Bytes is not 0: the
// serviceEventDetails of the record that reports it.
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
		return &end{position: position{segment: first, file: f}, begin: firstBeginning}, nil
	}
	e := &end{position: position{segment: segments[len(segments)-1]}}
	if err := e.verify(segments); err != nil {
		return nil, err
	}
	if e.begin, err = segments[0].beginning(); err != nil {
		return nil, err
	}
	if e.file, err = e.segment.open(); err != nil {
		return nil, err
	}
	return e, nil
}

// goOn begins a segment behind a trail that does not verify, for the records
// of what happens until an operator has decided. They follow the last record
// that is sound in the last segment, if there is one.
func goOn(dir string, problem error) (*end, error) {
	segments, err := namedSegments(dir)
	if err != nil {
		return nil, err
	}
	e := &end{position: position{segment: segment{dir: dir, number: 1}}, begin: firstBeginning, problem: problem}
	if len(segments) > 0 {
		last := segments[len(segments)-1]
		e.segment.number = last.number + 1
		var v verifier
		_ = v.segment(last, -1) // what is wrong with it is known
		e.head, e.signed, e.signedBy = v.last, v.signed, v.signedBy
	}
	e.file, err = e.segment.create()
	return e, err
}

func (e *end) verify(segments []segment) error {
	var v verifier
	path := e.segment.path()
	err := v.segment(e.segment, -1)
	if errors.Is(err, ErrTorn) && (v.report.Records > 0 || e.segment.number == 1) {
		e.torn, err = setAside(path, v.size)
	}
	if err != nil {
		return err
	}
	e.size = v.size
	if before := len(segments) - 2; v.report.Records > 0 && before >= 0 {
		if err := v.checkStart(segments[before], path); err != nil {
			return err
		}
	}
	e.head, e.signed, e.signedBy = v.last, v.signed, v.signedBy
	return nil
}

// beginning reads where the segment begins.
func (s segment) beginning() (beginning, error) {
	f, err := s.openRead()
	if err != nil {
		return beginning{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	line, err := bufio.NewReader(io.LimitReader(f, int64(maxLine))).ReadBytes('\n')
	switch {
	case errors.Is(err, io.EOF) && len(line) == 0 && s.number == 1:
		return firstBeginning, nil
	case errors.Is(err, io.EOF) && len(line) == 0:
		return beginning{}, s.emptyError()
	case errors.Is(err, io.EOF):
		return beginning{}, &ChainError{File: s.path(), Line: 1, Err: ErrTorn}
	case err != nil:
		return beginning{}, err
	}
	r, err := parse(line[:len(line)-1])
	if err != nil {
		return beginning{}, &ChainError{File: s.path(), Line: 1, Err: err}
	}
	return beginning{r.sequence, r.previous}, nil
}

// checkStart checks that the records that v has read follow those in the
// segment before.
func (v *verifier) checkStart(before segment, path string) error {
	last, err := before.lastRecord()
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
func (s segment) lastRecord() (record, error) {
	lines, err := s.backward(-1)
	if err != nil {
		return record{}, err
	}
	defer lines.close()
	_, r, err := lines.record()
	if errors.Is(err, io.EOF) {
		err = s.emptyError()
	}
	return r, err
}

// setAside moves what is behind offset to a file of its own.
func setAside(path string, offset int64) (torn, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
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
	if _, err = l.append(ctx, ownRecord(repairEvent, details), Room{}, entry{own: true}); err != nil {
		return fmt.Errorf("recording a repair: %w", err)
	}
	return nil
}
