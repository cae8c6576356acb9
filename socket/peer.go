package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Peer is the process at the other end of a connection, as the kernel recorded
// it when that process connected (SO_PEERCRED and SO_PEERGROUPS, unix(7)). A
// uid without a mapping in the daemon's user namespace is the kernel's overflow
// uid, 65534.
type Peer struct {
	UID uint32
	GID uint32
	// PID may long belong to another process: it is good for a log line, not
	// for a decision.
	PID int32
	// Groups are the supplementary groups. It is shared by all calls of the
	// connection: do not modify it.
	Groups []uint32
	// Cgroup is the path of the control group that the process was in when its
	// connection was accepted, as the daemon sees it; "" if that is not known
	// for certain. It is of the process that connected, even if its PID is used
	// again.
	Cgroup string
}

// PeerFrom returns the peer of the connection that a request came over. It is
// present in the context of every request that [Server.Serve] hands on.
func PeerFrom(ctx context.Context) (Peer, bool) {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return Peer{}, false
	}
	return *c.peer, true
}

// readPeer asks the kernel who is at the other end.
func readPeer(conn *net.UnixConn) (*Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var (
		peer    *Peer
		peerErr error
	)
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			peerErr = fmt.Errorf("reading SO_PEERCRED: %w", err)
			return
		}
		groups, err := peerGroups(fd)
		if err != nil {
			peerErr = fmt.Errorf("reading SO_PEERGROUPS: %w", err)
			return
		}
		peer = &Peer{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid, Groups: groups}
		peer.Cgroup = peerCgroup(fd, cred.Pid)
	})
	if err != nil {
		return nil, err
	}
	return peer, peerErr
}

// peerGroups reads SO_PEERGROUPS (Linux 4.13), for which x/sys/unix has no
// wrapper: an array of gid_t of a length that the kernel tells with ERANGE.
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 32)
	for {
		size := uint32(len(groups)) * uint32(unsafe.Sizeof(groups[0]))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(unsafe.SliceData(groups))), uintptr(unsafe.Pointer(&size)), 0)
		n := int(size) / int(unsafe.Sizeof(groups[0]))
		switch {
		case errno == 0:
			return groups[:n:n], nil
		case errno == unix.ERANGE && n > len(groups):
			groups = make([]uint32, n)
		default:
			return nil, errno
		}
	}
}

// peerCgroup returns the control group of the process that connected, "" if it
// cannot be told for certain.
//
// The pid alone does not do: the process may have handed its connection on and
// ended, and the pid be another's by now. So the kernel is asked for the
// process itself (SO_PEERPIDFD, Linux 6.5), and what was read by pid counts only
// if that process is alive afterwards: then the pid was its own all along.
func peerCgroup(fd uintptr, pid int32) string {
	pidfd, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		return ""
	}
	defer unix.Close(pidfd) //nolint:errcheck // a process has nothing to write back
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/cgroup")
	if err != nil || !alive(pidfd) {
		return ""
	}
	return systemdCgroup(string(raw))
}

// alive reports whether the process is there. A daemon without capabilities may
// not signal those of other users: EPERM tells that there is one to refuse, ESRCH
// that there is none (kill(2)).
func alive(pidfd int) bool {
	err := unix.PidfdSendSignal(pidfd, 0, nil, 0)
	return err == nil || errors.Is(err, unix.EPERM)
}

// systemdCgroup finds in /proc/PID/cgroup (cgroups(7)) the hierarchy that systemd
// keeps services in: its own named one where there is one, else the unified one.
func systemdCgroup(text string) string {
	unified := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		_, rest, _ := strings.Cut(line, ":")
		controllers, path, _ := strings.Cut(rest, ":")
		switch controllers {
		case "name=systemd":
			return path
		case "":
			unified = path
		}
	}
	return unified
}
