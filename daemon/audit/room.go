package audit

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"cmkd/daemon/audit/event"
)

// Backlog is a [Config.Backlog] that has room for so many calls in flight of
// users who are not privileged; 0 is 1,024.
func Backlog(calls int) int64 { return max(32<<20, int64(calls)*event.RoomSize*3/2) }

// Room is what [Log.Reserve] took for the records of one call, which are
// written one after the other. The zero Room is none.
type Room struct {
	size       int
	privileged bool
}

// Reserve takes room for the records of a call before it does anything, so that
// neither a backlog nor their length can keep them out of the log later. It
// fails with [ErrBacklog], [ErrDiskLow], [ErrBroken] or [ErrClosed]. The
// privileged (root, say) find room that nobody else can take: the last quarter
// of [Config.Backlog], and of the disk [Config.DiskReserve]. Every Room is given
// back with [Log.Release].
func (l *Log) Reserve(privileged bool) (Room, error) {
	if err := l.Err(); err != nil {
		return Room{}, err
	}
	if !privileged && l.Space().Reserved {
		return Room{}, ErrDiskLow
	}
	if !l.claim(event.RoomSize, privileged) {
		return Room{}, ErrBacklog
	}
	return Room{event.RoomSize, privileged}, nil
}

// Release gives the room back.
func (l *Log) Release(room Room) { l.free(room.size) }

// claim takes so many bytes of the backlog.
func (l *Log) claim(n int, privileged bool) bool {
	limit := l.cfg.Backlog
	if !privileged {
		limit -= limit / 4
	}
	if l.taken.Add(int64(n)) > limit {
		l.free(n)
		return false
	}
	return true
}

func (l *Log) free(n int) {
	if n > 0 {
		l.taken.Add(-int64(n))
	}
}

// fit makes room for a record of so many bytes and returns what it took beside
// the room that is reserved: -1 if the record must be cut to that.
func (l *Log) fit(room Room, n int, as entry) (extra int, err error) {
	if n += chainSize; as.own || n <= room.size {
		return 0, nil // the log's own records are few and short
	}
	n -= room.size
	switch {
	case l.claim(n, room.privileged || room.size == 0):
		return n, nil
	case room.size == 0:
		return 0, ErrBacklog
	}
	return -1, nil
}

// Space is how the file system of the log is filled.
type Space struct {
	Free  uint64 // bytes that the daemon's user can write
	Total uint64 // bytes
	// Low: less is free than four times what is reserved. It is time to act.
	Low bool
	// Reserved: what is left is for the privileged.
	Reserved bool
}

// space is the last answer of statfs(2).
type space struct {
	last atomic.Pointer[Space]
	at   atomic.Int64 // when it was asked, nanoseconds since the epoch
}

// spaceInterval is how long the answer of statfs(2) is believed.
const spaceInterval = time.Second

// Space asks the file system, at most once a second.
func (l *Log) Space() Space {
	now, asked := time.Now().UnixNano(), l.space.at.Load()
	last := l.space.last.Load()
	if last != nil && now-asked < int64(spaceInterval) && now >= asked || !l.space.at.CompareAndSwap(asked, now) && last != nil {
		return *last
	}
	fresh := l.statfs()
	l.space.last.Store(&fresh)
	return fresh
}

func (l *Log) statfs() Space {
	var fs unix.Statfs_t
	if err := unix.Statfs(l.cfg.Dir, &fs); err != nil {
		return Space{} // nothing is known: a full disk breaks the log
	}
	size := uint64(fs.Bsize) //nolint:gosec // statfs(2): it is positive
	s := Space{Free: fs.Bavail * size, Total: fs.Blocks * size}
	reserve := min(uint64(l.cfg.DiskReserve), s.Total/20) //nolint:gosec // it is positive: see withDefaults
	s.Low, s.Reserved = s.Free < 4*reserve, s.Free < reserve
	return s
}
