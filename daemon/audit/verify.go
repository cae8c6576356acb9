package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"cmkd/daemon/audit/event"
)

// ChainError says where in the log a problem is. Err is one of the problems
// above, with detail.
type ChainError struct {
	File string // "" when a stream was verified
	Line int    // from 1; 0 if the problem is at the end
	// Sequence is the number that the record at fault should have, 0 if the
	// log before it gives none.
	Sequence uint64
	Err      error
}

// Error implements error.
func (e *ChainError) Error() string {
	var where []string
	if e.File != "" {
		where = append(where, filepath.Base(e.File))
	}
	if e.Line != 0 {
		where = append(where, fmt.Sprintf("line %d", e.Line))
	}
	if e.Sequence != 0 {
		where = append(where, fmt.Sprintf("record %d", e.Sequence))
	}
	return strings.Join(where, ", ") + ": " + e.Err.Error()
}

// Unwrap returns the problem.
func (e *ChainError) Unwrap() error { return e.Err }

// Report is what verification found, up to the first problem if there is one.
type Report struct {
	Records  uint64 // number of sound records
	Segments int    // number of files; 0 when a stream was verified
	First    uint64 // sequence of the first record: more than 1 if older ones are not there
	Last     uint64 // sequence of the last sound record
	// PreviousHash is what the first record follows: the hash of the record
	// before, zero for record 1. Hash is that of the last sound record.
	PreviousHash [32]byte
	Hash         [32]byte
	// FirstTime and LastTime are the eventTime of the first and the last record.
	FirstTime, LastTime time.Time

	Checkpoints int // number of checkpoints
	// SignedThrough is the last record that a checkpoint with a verified
	// signature covers: up to it, nobody without the signing key has changed
	// the log. It is 0 without a [VerifyOptions.Signature].
	SignedThrough uint64
	// KeyID names the key of the last checkpoint, KeySince is the first of its
	// checkpoints in a row, and KeyChanges how often another key took over.
	KeyID      string
	KeySince   uint64
	KeyChanges int
	// Unsigned is the number of records after SignedThrough, without the
	// checkpoint that covers it, and UnsignedAge the time from the first of them
	// to the last.
	Unsigned    uint64
	UnsignedAge time.Duration
	// Repairs is the number of torn ends that were moved aside, Outages how
	// often nothing could be written for a time. Their records say more.
	Repairs, Outages int
}

// VerifyOptions says what else to check the log against.
type VerifyOptions struct {
	// Signature checks the checkpoints' signatures. A checkpoint that fails
	// is an error. Nil: the chain alone is verified, which proves nothing
	// against somebody who can rewrite the whole log.
	Signature SignatureVerifier
	// Sequence and Hash name a record that the log must contain, such as an
	// earlier [Log.Head] or [Report]: a log that was cut off at its end is
	// sound on its own. Sequence 0: none.
	Sequence uint64
	Hash     [32]byte
	// Tail says how much of the end may be unsigned; nil: all of it. It needs
	// Signature.
	Tail *TailLimit
	// AfterSequence and AfterHash name the record that the first one follows:
	// of segments that were pruned and archived, the last record of the archive
	// before. AfterSequence 0: the trail begins with record 1, or where its
	// checkpoints say that it does.
	AfterSequence uint64
	AfterHash     [32]byte
}

// TailLimit is how much of the end may be unsigned: both hold.
type TailLimit struct {
	Records uint64
	Age     time.Duration
}

// Verify checks a log, one segment or several in order, from its text alone.
// It stops at the first problem, a [*ChainError]. Other errors are the
// reader's. A log that is being written to may end in [ErrTorn].
func Verify(r io.Reader, opt VerifyOptions) (Report, error) {
	v := verifier{opt: opt}
	if err := v.read(r, ""); err != nil {
		v.setLastTime()
		return v.report, err
	}
	return v.report, v.finish()
}

// VerifyDir checks the segments in a directory as [Verify] does. It changes
// nothing and needs no lock.
func VerifyDir(dir string, opt VerifyOptions) (Report, error) {
	segments, err := listSegments(dir)
	if err != nil {
		return Report{}, err
	}
	v := verifier{opt: opt}
	for _, s := range segments {
		if err := v.segment(s, -1); err != nil {
			v.setLastTime()
			return v.report, err
		}
	}
	return v.report, v.finish()
}

// verifier checks record after record.
type verifier struct {
	opt    VerifyOptions
	report Report
	last   link
	// recent has the latest records, for checkpoints, which refer to a record a
	// little before them. recent[0] is of first.
	recent []recentRecord
	first  uint64
	found  bool  // the record that opt names
	size   int64 // of the whole lines of the file
	// signed is the last record that a checkpoint covers, signedBy the
	// checkpoint's own.
	signed, signedBy uint64
	begin            beginning // the latest that a checkpoint names
}

type recentRecord struct {
	hash [sha256.Size]byte
	at   string // eventTime
}

// maxRecent bounds recent: 72 MB.
const maxRecent = 1 << 20

// segment reads a segment, up to size bytes of it unless size is negative. One
// that is not the first of the trail has a record.
func (v *verifier) segment(s segment, size int64) error {
	f, err := s.openRead()
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	v.report.Segments++
	before := v.report.Records
	var r io.Reader = f
	if size >= 0 {
		r = io.LimitReader(f, size)
	}
	if err := v.read(r, s.path()); err != nil {
		return err
	}
	if s.number > 1 && v.report.Records == before {
		return s.emptyError()
	}
	return nil
}

func (s segment) emptyError() error {
	return &ChainError{File: s.path(), Line: 1, Err: fmt.Errorf("%w: the segment is empty, it has been cut off", ErrChain)}
}

func (v *verifier) read(r io.Reader, file string) error {
	lines := bufio.NewReaderSize(r, maxLine)
	v.size = 0
	for n := 1; ; n++ {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case errors.Is(err, io.EOF):
			err = ErrTorn
		case errors.Is(err, bufio.ErrBufferFull):
			err = tooLong(lines)
		case err != nil:
			return err
		default:
			err = v.line(line[:len(line)-1])
		}
		if err != nil {
			e := &ChainError{File: file, Line: n, Err: err}
			if v.report.Records > 0 {
				e.Sequence = v.last.sequence + 1
			}
			return e
		}
		v.size += int64(len(line))
	}
}

// tooLong tells a line that is too long from an end without a newline, of
// whatever length: a crash can leave a run of zeros.
func tooLong(lines *bufio.Reader) error {
	for {
		switch _, err := lines.ReadSlice('\n'); {
		case err == nil:
			return fmt.Errorf("%w: the line is longer than %d bytes", ErrFormat, maxLine)
		case errors.Is(err, io.EOF):
			return ErrTorn
		case !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

func (v *verifier) line(line []byte) error {
	r, err := parse(line)
	if err != nil {
		return err
	}
	if v.report.Records == 0 {
		if r.sequence == 1 && r.previous != (link{}).hash {
			return fmt.Errorf("%w: nothing comes before record 1", ErrChain)
		}
		v.report.First, v.report.PreviousHash = r.sequence, r.previous
		v.report.FirstTime = parseTime(eventTime(line))
		v.first = r.sequence
	} else if err := v.last.follow(r); err != nil {
		return err
	}
	if r.sequence == v.opt.Sequence {
		if v.opt.Hash != r.hash {
			return fmt.Errorf("%w: it is not the record that is known to exist: the log was rewritten from an earlier record on, or the hash belongs to another log", ErrChain)
		}
		v.found = true
	}
	if err := v.own(line, r); err != nil {
		return err
	}
	if len(v.recent) == maxRecent {
		v.recent = append(v.recent[:0], v.recent[maxRecent/2:]...)
		v.first += maxRecent / 2
	}
	v.recent = append(v.recent, recentRecord{r.hash, eventTime(line)})
	v.last = r.link
	v.report.Records++
	v.report.Last, v.report.Hash = r.sequence, r.hash
	return nil
}

// eventTime returns the eventTime of a record: the first member of the name,
// since what comes before it are strings, in which quotes are escaped.
func eventTime(line []byte) string {
	_, rest, ok := bytes.Cut(line, []byte(`"eventTime":"`))
	if !ok || len(rest) < len(event.TimeFormat) {
		return ""
	}
	return string(rest[:len(event.TimeFormat)])
}

// parseTime reads an eventTime, the zero time if it is none.
func parseTime(text string) time.Time {
	at, err := time.Parse(event.TimeFormat, text)
	if err != nil {
		return time.Time{}
	}
	return at
}

// own looks at the log's own records.
func (v *verifier) own(line []byte, r record) error {
	name, c, err := ownEvent(line)
	switch {
	case name == repairEvent:
		v.report.Repairs++
	case name == resumeEvent:
		v.report.Outages++
	case err != nil:
		return err
	case c != nil:
		return v.checkpoint(c, r)
	}
	return nil
}

// ownEvent returns the eventName of one of the log's own records, "" of others,
// and a checkpoint.
func ownEvent(line []byte) (name string, c *signed, err error) {
	// Without the quote before it: a search is several times as fast if it begins with a
	// character that is rare.
	if !bytes.Contains(line, []byte(serviceEvent+`"`)) {
		return "", nil, nil
	}
	var event struct {
		EventType   string     `json:"eventType"`
		EventSource string     `json:"eventSource"`
		EventName   string     `json:"eventName"`
		EventTime   string     `json:"eventTime"`
		Checkpoint  checkpoint `json:"serviceEventDetails"`
	}
	err = json.Unmarshal(line, &event)
	if event.EventType != serviceEvent || event.EventSource != ownSource {
		return "", nil, nil
	}
	if event.EventName != checkpointEvent {
		return event.EventName, nil, nil
	}
	if err != nil {
		return checkpointEvent, nil, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	c, err = event.Checkpoint.parse(event.EventTime)
	return checkpointEvent, c, err
}

func (v *verifier) checkpoint(c *signed, r record) error {
	if c.of.sequence == 0 || c.of.sequence >= r.sequence {
		return fmt.Errorf("%w: it covers record %d", ErrCheckpoint, c.of.sequence)
	}
	// A record before the first one here cannot be compared.
	known := c.of.sequence >= v.first && v.report.Records > 0
	if known && v.recent[c.of.sequence-v.first].hash != c.of.hash {
		return fmt.Errorf("%w: it has another hash for record %d", ErrCheckpoint, c.of.sequence)
	}
	if v.opt.Signature != nil {
		if err := c.verify(v.opt.Signature); err != nil {
			return err
		}
		if known {
			v.report.SignedThrough = max(v.report.SignedThrough, c.of.sequence)
		}
	}
	if v.report.KeyID != c.keyID {
		if v.report.Checkpoints > 0 {
			v.report.KeyChanges++
		}
		v.report.KeyID, v.report.KeySince = c.keyID, r.sequence
	}
	if c.begin.first > v.begin.first {
		v.begin = c.begin
	}
	v.signed, v.signedBy = c.of.sequence, r.sequence
	v.report.Checkpoints++
	return nil
}
