package audit

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json"
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

	Checkpoints int // number of checkpoints
	// SignedThrough is the last record that a checkpoint with a verified
	// signature covers: up to it, nobody without the signing key has changed
	// the log. It is 0 without a [VerifyOptions.Signature].
	SignedThrough uint64
	// Repairs is the number of torn ends that were moved aside, Outages how
	// often nothing could be written for a time. Their records say more.
	Repairs, Outages int
}

// VerifyOptions says what else to hold the log against.
type VerifyOptions struct {
	// Signature checks the checkpoints' signatures. A checkpoint that fails
	// is an error. Nil: the chain alone is verified, which proves nothing
	// against somebody who can rewrite the whole log.
	Signature SignatureVerifier
	// Sequence and Hash name a record that the log must contain, such as an
	// earlier [Log.Head] or [Report]: a log that was cut off at its end is
	// sound by itself. Sequence 0: none.
	Sequence uint64
	Hash     [32]byte
}

// Verify checks a log, one segment or several in order, from its text alone.
// It stops at the first problem, a [*ChainError]. Other errors are the
// reader's. A log that is being written to may end in [ErrTorn].
func Verify(r io.Reader, opt VerifyOptions) (Report, error) {
	v := verifier{opt: opt}
	err := v.read(r, "")
	if err == nil {
		err = v.finish()
	}
	return v.report, err
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
		if err := v.file(s.path()); err != nil {
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
	// recent has the hashes of the latest records, for checkpoints, which
	// refer to a record a little before them. recent[0] is of first.
	recent [][32]byte
	first  uint64
	found  bool  // the record that opt names
	size   int64 // of the whole lines of the file
	// signed is the last record that a checkpoint covers, signedBy the
	// checkpoint's own.
	signed, signedBy uint64
}

// maxRecent bounds recent: 32 MB.
const maxRecent = 1 << 20

func (v *verifier) file(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	v.report.Segments++
	return v.read(f, path)
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
		v.first = r.sequence
	} else if err := v.last.follow(r); err != nil {
		return err
	}
	if r.sequence == v.opt.Sequence {
		if v.opt.Hash != r.hash {
			return fmt.Errorf("%w: it is not the record that is known to exist", ErrChain)
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
	v.recent = append(v.recent, r.hash)
	v.last = r.link
	v.report.Records++
	v.report.Last, v.report.Hash = r.sequence, r.hash
	return nil
}

// own looks at the log's own records.
func (v *verifier) own(line []byte, r record) error {
	if !bytes.Contains(line, []byte(`"`+serviceEvent+`"`)) {
		return nil
	}
	var event struct {
		EventType   string     `json:"eventType"`
		EventSource string     `json:"eventSource"`
		EventName   string     `json:"eventName"`
		EventTime   string     `json:"eventTime"`
		Checkpoint  checkpoint `json:"serviceEventDetails"`
	}
	err := json.Unmarshal(line, &event)
	if event.EventType != serviceEvent || event.EventSource != ownSource {
		return nil
	}
	switch event.EventName {
	case repairEvent:
		v.report.Repairs++
		return nil
	case resumeEvent:
		v.report.Outages++
		return nil
	case checkpointEvent:
	default:
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	return v.checkpoint(event.Checkpoint, event.EventTime, r)
}

func (v *verifier) checkpoint(c checkpoint, at string, r record) error {
	of := link{sequence: c.Sequence}
	if n, err := hex.Decode(of.hash[:], []byte(c.Hash)[:min(len(c.Hash), hexHash)]); err != nil || n != len(of.hash) || len(c.Hash) != hexHash {
		return fmt.Errorf("%w: bad hash", ErrCheckpoint)
	}
	signature, err := base64.StdEncoding.DecodeString(c.Signature)
	if err != nil {
		return fmt.Errorf("%w: bad signature: %w", ErrCheckpoint, err)
	}
	if of.sequence == 0 || of.sequence >= r.sequence {
		return fmt.Errorf("%w: it covers record %d", ErrCheckpoint, of.sequence)
	}
	// A record before the first one here cannot be compared.
	known := of.sequence >= v.first && v.report.Records > 0
	if known && v.recent[of.sequence-v.first] != of.hash {
		return fmt.Errorf("%w: it has another hash for record %d", ErrCheckpoint, of.sequence)
	}
	if v.opt.Signature != nil {
		digest := checkpointDigest(of, at)
		if err := v.opt.Signature(c.KeyID, digest[:], signature); err != nil {
			return fmt.Errorf("%w: %w", ErrCheckpoint, err)
		}
		if known {
			v.report.SignedThrough = of.sequence
		}
	}
	v.signed, v.signedBy = of.sequence, r.sequence
	v.report.Checkpoints++
	return nil
}

func (v *verifier) finish() error {
	if v.opt.Sequence != 0 && !v.found {
		return fmt.Errorf("%w: record %d is known to exist, the log has %d to %d",
			ErrHead, v.opt.Sequence, v.report.First, v.report.Last)
	}
	return nil
}
