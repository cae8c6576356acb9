package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/sys/unix"

	"cmkd/daemon/audit/event"
)

// outage is what made a log broken.
type outage struct {
	err   error
	since time.Time
	// lines are the records that were handed in and may or may not be in the
	// file. What they tell of has happened, so they are written again; records
	// ahead of what then did not happen are not among them.
	lines []byte
	// missing is the segment that was gone, with all older ones, "" if none was.
	missing string
}

// resumed is the serviceEventDetails of the record that ends an outage.
type resumed struct {
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason"`
	Records int       `json:"records"` // written late, right before this one
	Missing string    `json:"missing,omitempty"`
}

// Reopen mends a broken log, once there is room on the disk again, say: it
// writes the records that could not be written, and one that reports the
// outage. Only then does the log take others. Reopen does nothing to a log that
// is not broken.
//
// If the last segment has been removed, and every older one with it, the chain
// goes on in a new segment, in a new directory if need be. That is a [Log.Problem].
func (l *Log) Reopen() error {
	if err := l.reopen(); err != nil {
		return fmt.Errorf("reopening the audit log %s: %w", l.cfg.Dir, err)
	}
	return nil
}

func (l *Log) reopen() error {
	l.io.Lock()
	defer l.io.Unlock()
	l.mu.Lock()
	out, ended, durable := l.outage, l.ended || l.closing, l.durable
	l.mu.Unlock()
	switch {
	case ended:
		return ErrClosed
	case out == nil:
		return nil
	}
	if err := l.proceed(out, durable); err != nil {
		return err
	}
	lines, tip, err := out.chain(durable)
	if err != nil {
		return err
	}
	if err := l.at.write(lines, l.cfg.SegmentBytes); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tip, l.durable, l.outage = tip, tip, nil
	if out.missing != "" {
		l.problem = fmt.Errorf("%w: %s and all older segments were removed while the daemon was running", ErrBeginning, out.missing)
	}
	return nil
}

// chain makes the lines that end the outage.
func (o *outage) chain(tip link) ([]byte, link, error) {
	var lines []byte
	n := 0
	for line := range bytes.Lines(o.lines) {
		lines, tip = tip.seal(lines, line[:bytes.LastIndex(line, []byte(versionName))])
		n++
	}
	details, err := json.Marshal(resumed{
		Since: o.since.UTC().Truncate(time.Millisecond), Reason: o.err.Error(), Records: n, Missing: o.missing,
	})
	if err != nil {
		return nil, tip, err
	}
	body, err := event.Append(nil, ownRecord(resumeEvent, details), event.MaxRecord)
	if err != nil {
		return nil, tip, err
	}
	lines, tip = tip.seal(lines, body)
	return lines, tip, nil
}

// proceed makes l.at the place, in a file opened again, where the log goes on
// behind the durable record. The caller holds l.io.
func (l *Log) proceed(out *outage, durable link) error {
	next := l.at
	_, err := os.Lstat(l.at.segment.path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if next, err = l.startOver(); err != nil {
			return err
		}
		out.missing = filepath.Base(l.at.segment.path())
	case err != nil:
		return err
	default:
		if next.file, err = l.at.segment.open(); err != nil {
			return err
		}
		if err := next.cut(durable); err != nil {
			return errors.Join(err, next.file.Close())
		}
	}
	l.at.file.Close() //nolint:errcheck // nothing was written through it since it failed
	l.at = next
	return nil
}

// cut takes off what is behind p: the kernel may believe that what fdatasync
// failed to write is on the disk, and only what is behind us in the same file
// can be told to be written again.
func (p *position) cut(durable link) error {
	if err := p.file.Truncate(p.size); err != nil {
		return err
	}
	if err := p.file.Sync(); err != nil {
		return err
	}
	if p.size == 0 {
		return nil
	}
	last, err := p.segment.lastRecord()
	if err != nil {
		return err
	}
	if last.link != durable {
		return fmt.Errorf("%w: %s ends with record %d, not with record %d", ErrChain, p.segment.path(), last.sequence, durable.sequence)
	}
	return nil
}

// startOver begins the segment behind one that has been removed.
func (l *Log) startOver() (position, error) {
	if err := os.Mkdir(l.cfg.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return position{}, err
	}
	if err := l.lockAgain(); err != nil {
		return position{}, err
	}
	left, err := listSegments(l.cfg.Dir)
	if err != nil {
		return position{}, err
	}
	if len(left) > 0 && left[0].number <= l.at.segment.number {
		return position{}, fmt.Errorf("%w: %s is gone and older segments are there: put it back, or move them away",
			ErrChain, l.at.segment.path())
	}
	next := segment{dir: l.cfg.Dir, number: l.at.segment.number + 1}
	f, err := next.create()
	return position{segment: next, file: f}, err
}

// lockAgain takes the lock of a directory that was removed or replaced. The
// caller holds l.io.
func (l *Log) lockAgain() error {
	if held, err := l.lock.InPlace(); held || err != nil {
		return err
	}
	lock, err := lockDir(l.cfg.Dir)
	if err != nil {
		return err
	}
	l.lock.Release() //nolint:errcheck // a lock on a file that has no name
	l.lock = lock
	return nil
}

// errMoved: the segment is not where it was, so nobody will find in it what was
// written.
var errMoved = errors.New("the segment has been removed or replaced: put back what was there, and restart cmkd")

// inPlace checks that the file is still the one with the segment's name.
func (p *position) inPlace() error {
	if p.path == "" {
		if err := uninterrupted(func() error { return unix.Fstat(int(p.file.Fd()), &p.held) }); err != nil {
			return os.NewSyscallError("fstat", err)
		}
		p.path = p.segment.path()
	}
	if err := uninterrupted(func() error { return unix.Lstat(p.path, &p.there) }); err != nil {
		return fmt.Errorf("%s: %w: %w", p.path, errMoved, err)
	}
	if p.held.Dev != p.there.Dev || p.held.Ino != p.there.Ino {
		return fmt.Errorf("%s: %w", p.path, errMoved)
	}
	return nil
}
