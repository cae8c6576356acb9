package daemon

import (
	"context"
	"errors"
	"time"
)

// lockPatience is how long a start waits for the locks of the daemon before it. The
// kernel drops those of a process that was killed when the last descriptor is closed, and
// a child that it was just starting has copies until execve(2).
const (
	lockPatience = 3 * time.Second
	lockPoll     = 20 * time.Millisecond
	// etcdPoll is how often a start asks etcd whether the node before it has gone: each time costs it
	// five requests.
	etcdPoll = 500 * time.Millisecond
)

// patiently calls open every poll until it fails with anything but locked, or the patience has passed.
func patiently[T any](ctx context.Context, patience, poll time.Duration, locked error, open func() (T, error)) (T, error) {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		v, err := open()
		if !errors.Is(err, locked) {
			return v, err
		}
		select {
		case <-time.After(poll):
		case <-deadline.C:
			return v, err
		case <-ctx.Done():
			return v, err
		}
	}
}
