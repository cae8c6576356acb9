package socket

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// otherFiles are what the process may have open besides connections:
	// databases, logs, other processes. With one token cmkd has about 30.
	otherFiles = 256
	// leastConnections are too few to serve anybody with.
	leastConnections = 64
)

// fit lowers the limits on connections to what a process may hold that may have
// so many files open (RLIMIT_NOFILE, getrlimit(2)): past that limit connections
// wait unseen, whoever's they are, and the one user who has them all open keeps
// out the others.
func (l Limits) fit(files uint64) (Limits, error) {
	besides := otherFiles + maxRefusing + l.Reserve
	if files >= uint64(l.Connections+besides) {
		return l, nil
	}
	if least := uint64(min(l.Connections, leastConnections) + besides); files < least {
		return l, fmt.Errorf("the process may have %d files open, at least %d are needed: raise RLIMIT_NOFILE", files, least)
	}
	l.Connections = int(files) - besides
	l.ConnectionsPerUID = min(l.ConnectionsPerUID, max(1, l.Connections/2))
	return l, nil
}

// maxFiles is how many files the process may have open. The Go runtime has
// raised the soft limit to the hard one.
func maxFiles() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("getrlimit: %w", err)
	}
	return limit.Cur, nil
}
