package ship

import (
	"time"

	"golang.org/x/sys/unix"
)

// settleTime is how long a receiver that cannot confirm what it has taken must live on
// after it has read a record: whoever keeps a record in memory for longer, and is killed
// then, loses it.
const settleTime = 2 * time.Second

// settling counts the records of a stream that a receiver has read, and has had the
// time to store.
type settling struct {
	sentBytes int64
	sent      int
	marks     []mark
	taken     int
}

// mark is the end of what one Send wrote.
type mark struct {
	bytes   int64
	records int
	read    time.Time // when the receiver was seen to have read so far; zero: it was not
}

func (s *settling) add(bytes, records int) {
	s.sentBytes += int64(bytes)
	s.sent += records
	s.marks = append(s.marks, mark{bytes: s.sentBytes, records: s.sent})
}

// settle returns how many records are taken. alive is asked last: what was read before
// may be lost if it is not.
func (s *settling) settle(unread int, after time.Duration, alive func() error) (int, error) {
	now := time.Now()
	n, taken := 0, s.taken
	for i := range s.marks {
		m := &s.marks[i]
		if m.read.IsZero() && m.bytes <= s.sentBytes-int64(unread) {
			m.read = now
		}
		if m.read.IsZero() || now.Sub(m.read) < after {
			break
		}
		n, taken = i+1, m.records
	}
	// Marks behind the first that is not old enough are looked at as well.
	for i := n; i < len(s.marks); i++ {
		if m := &s.marks[i]; m.read.IsZero() && m.bytes <= s.sentBytes-int64(unread) {
			m.read = now
		}
	}
	if err := alive(); err != nil {
		return s.taken, err
	}
	s.marks, s.taken = s.marks[n:], taken
	return s.taken, nil
}

// queued asks a descriptor how many bytes wait in it.
func queued(c interface{ Control(func(uintptr)) error }, request uint) (n int, err error) {
	if ctlErr := c.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), request) }); ctlErr != nil {
		return 0, ctlErr
	}
	return n, err
}
