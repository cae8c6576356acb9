package audit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"
)

// begun is the serviceEventDetails of the record with which a trail starts over.
type begun struct {
	First             uint64 `json:"first"` // nothing older belongs to the trail
	FirstPreviousHash string `json:"firstPreviousHash"`
	Reason            string `json:"reason"`
	Aside             string `json:"aside"` // the folder for what was there before
}

// Begin starts the trail over in a new segment, behind whatever is there: an
// operator has decided to go on although it does not verify. A record reports
// it. The checkpoints that follow name the new beginning; the next [Log.Check]
// moves what came before to a folder of its own. The checkpoint is the
// caller's to make, see [Log.Checkpoint].
func (l *Log) Begin(ctx context.Context, reason string) error {
	l.arranging.Lock()
	defer l.arranging.Unlock()
	l.io.Lock()
	l.at.full = true
	number := l.at.segment.number
	if l.at.size > 0 {
		number++
	}
	begin := l.head().beginning()
	l.io.Unlock()
	details, err := json.Marshal(begun{
		First: begin.first, FirstPreviousHash: hex.EncodeToString(begin.previous[:]),
		Reason: reason, Aside: filepath.Base(asideDir(l.cfg.Dir, number)),
	})
	if err != nil {
		return err
	}
	if _, err := l.append(ctx, ownRecord(beginEvent, details), Room{}, entry{own: true}); err != nil {
		return fmt.Errorf("starting the audit trail over: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begin, l.problem, l.checked = begin, nil, true
	l.opened = l.durable
	return nil
}

// Pruning is what is to be removed from the beginning of a trail.
type Pruning struct {
	// First and FirstPreviousHash are the new beginning.
	First             uint64 `json:"first"`
	FirstPreviousHash string `json:"firstPreviousHash"`
	// Records are removed, with these Segments, whose last record is of Until.
	Records  uint64    `json:"records"`
	Segments []string  `json:"segments"`
	Until    time.Time `json:"until"`
	// Archive is the folder that they are moved to, "" if they are deleted.
	Archive string `json:"archive,omitempty"`

	begin    place
	segments []segment
}

// PruneOptions say what goes: one of Before and Keep is set.
type PruneOptions struct {
	Before time.Time // segments with older records only
	Keep   int       // all segments but the newest so many
	// Archive moves the segments to the folder "archive" of the trail's, instead
	// of deleting them.
	Archive bool
}

// archiveName is the folder for pruned segments.
const archiveName = "archive"

// Prune removes the oldest segments. It verifies them first. record is called
// with what goes before anything does, to record it; then a checkpoint
// names the new beginning, then commit makes sure that the database knows of a
// record that stays. Only then are the segments removed. It returns nil if
// there are none to remove.
func (l *Log) Prune(ctx context.Context, opt PruneOptions, signature SignatureVerifier, record func(*Pruning) error, commit func() error) (*Pruning, error) {
	l.arranging.Lock()
	defer l.arranging.Unlock()
	p, err := l.planPruning(ctx, opt, signature)
	if p == nil || err != nil {
		return nil, err
	}
	if opt.Archive {
		p.Archive = archiveName
		if err := p.archive(l.cfg.Dir); err != nil {
			return nil, fmt.Errorf("archiving segments: %w", err)
		}
	}
	if err := record(p); err != nil {
		return nil, err
	}
	if err := l.moveBeginning(ctx, p.begin.beginning); err != nil {
		return nil, err
	}
	if err := commit(); err != nil {
		return nil, err
	}
	for _, s := range p.segments {
		if err := os.Remove(s.path()); err != nil {
			return nil, err
		}
	}
	return p, syncDir(l.cfg.Dir)
}

// moveBeginning makes a checkpoint that names a new beginning.
func (l *Log) moveBeginning(ctx context.Context, to beginning) error {
	l.mu.Lock()
	old, before := l.begin, l.signedBy
	l.begin = to
	l.mu.Unlock()
	err := l.Checkpoint(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && l.signedBy == before {
		err = errors.New("no checkpoint is made before the trail is verified")
	}
	if err != nil {
		l.begin = old
		return fmt.Errorf("signing the new beginning of the audit trail: %w", err)
	}
	return nil
}

// planPruning says what goes and verifies it. It returns nil if nothing does.
func (l *Log) planPruning(ctx context.Context, opt PruneOptions, signature SignatureVerifier) (*Pruning, error) {
	l.io.Lock()
	live := l.at.segment.number
	l.io.Unlock()
	segments, err := listSegments(l.cfg.Dir)
	if err != nil {
		return nil, err
	}
	n := len(segments) - max(opt.Keep, 1)
	if !opt.Before.IsZero() {
		if n, err = olderThan(segments, opt.Before); err != nil {
			return nil, err
		}
	}
	for n > 0 && segments[n-1].number >= live {
		n--
	}
	if n <= 0 {
		return nil, nil //nolint:nilnil // there is nothing to remove
	}
	l.mu.Lock()
	first := l.begin
	l.mu.Unlock()
	v := verifier{opt: VerifyOptions{Signature: signature}}
	p := &Pruning{segments: segments[:n]}
	for _, s := range p.segments {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if err := v.segment(s, -1); err != nil {
			return nil, err
		}
		p.Segments = append(p.Segments, filepath.Base(s.path()))
	}
	if err := first.check(beginning{v.report.First, v.report.PreviousHash}); err != nil {
		return nil, err
	}
	got, err := segments[n].beginning()
	if err != nil {
		return nil, err
	}
	if err := segments[n].joins(segments[n-1], got); err != nil {
		return nil, err
	}
	v.measureTail()
	p.begin = place{got, segments[n].number}
	p.First, p.FirstPreviousHash = got.first, hex.EncodeToString(got.previous[:])
	p.Records, p.Until = v.report.Records, v.report.LastTime
	return p, nil
}

// olderThan counts the segments whose records are all from before a time.
func olderThan(segments []segment, before time.Time) (int, error) {
	for n, s := range segments {
		lines, err := s.backward(-1)
		if err != nil {
			return 0, err
		}
		line, _, err := lines.record()
		lines.close()
		if err != nil {
			return 0, err
		}
		if !parseTime(eventTime(line)).Before(before) {
			return n, nil
		}
	}
	return len(segments), nil
}

// archive gives the segments a second name, which they keep.
func (p *Pruning) archive(dir string) error {
	to := filepath.Join(dir, archiveName)
	if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for _, s := range p.segments {
		target := filepath.Join(to, filepath.Base(s.path()))
		err := os.Link(s.path(), target)
		if errors.Is(err, os.ErrExist) { // from an attempt that failed later
			if same, statErr := sameFile(s.path(), target); statErr == nil && same {
				continue
			}
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(syncDir(to), syncDir(dir))
}

func sameFile(a, b string) (bool, error) {
	one, err := os.Lstat(a)
	if err != nil {
		return false, err
	}
	two, err := os.Lstat(b)
	return err == nil && os.SameFile(one, two), err
}
