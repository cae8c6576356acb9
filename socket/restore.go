package socket

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// watchInterval is how often the server looks whether its socket file is there.
const watchInterval = time.Second

// watch makes the socket file again when it has been removed or replaced, by a
// cleaner of old files, say, until ctx ends: without it nobody can connect.
func (s *Server) watch(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		restored, err := s.restore(ctx)
		switch {
		case restored:
			s.cfg.Log.Warn("the socket file was removed or replaced, and has been made again", "socket", s.cfg.Path)
			said = ""
		case err != nil && said != err.Error() && ctx.Err() == nil:
			said = err.Error()
			s.cfg.Log.Error("the socket file was removed or replaced, and cannot be made again yet", "socket", s.cfg.Path, "error", err)
		}
	}
}

// restore binds the path again if its file is not the server's any more.
// Connections that are open stay.
func (s *Server) restore(ctx context.Context) (restored bool, err error) {
	s.rebinding.Lock()
	defer s.rebinding.Unlock()
	old := s.binding.Load()
	if s.closed || old.lock == nil || old.owns() {
		return false, nil
	}
	gid, err := lookupGroup(s.cfg.Group)
	if err != nil {
		return false, err
	}
	if err := old.lockAgain(); err != nil {
		return false, err
	}
	next := &binding{path: old.path, lock: old.lock}
	if err := next.listen(ctx, s.cfg.Mode, gid); err != nil {
		if next.UnixListener != nil {
			err = errors.Join(err, next.UnixListener.Close())
		}
		return false, err
	}
	s.binding.Store(next)
	if err := old.UnixListener.Close(); err != nil {
		return true, fmt.Errorf("closing the old socket: %w", err)
	}
	return true, nil
}

// lockAgain takes the lock of a folder that was removed or replaced.
func (b *binding) lockAgain() error {
	held, err := b.lock.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Lstat(lockPath(b.path)); err == nil && os.SameFile(held, there) {
		return nil
	}
	lock, err := acquireLock(lockPath(b.path))
	if err != nil {
		return err
	}
	b.lock.Close() //nolint:errcheck // a lock on a file that has no name
	b.lock = lock
	return nil
}
