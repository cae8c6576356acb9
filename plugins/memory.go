package plugins

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// memory watches how much a process takes. Vendor libraries leak: SoftHSM2
// 2.6.1 keeps some 250 bytes of each session object, and so of each data key,
// until C_Finalize.
type memory struct {
	opened uint64    // bytes when the backend was open
	said   time.Time // when it was last said to have grown
}

// saidInterval is how long a process that has grown, and could not be
// replaced, is left alone.
const saidInterval = time.Minute

// grown says whether the process has taken more than limit bytes since its
// backend was open.
func (m *memory) grown(pid int, limit uint64, now time.Time) bool {
	size, err := resident(pid)
	switch {
	case err != nil:
		return false // it is ending
	case m.opened == 0:
		m.opened = size
	}
	if size < m.opened+limit || now.Sub(m.said) < saidInterval {
		return false
	}
	m.said = now
	return true
}

// resident is the resident anonymous memory of a process in bytes: not that of
// files, which whoever reads the process's memory makes resident
// (proc_pid_statm(5)).
func resident(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(text)
	if len(fields) < 3 {
		return 0, fmt.Errorf("statm of process %d: %q", pid, text)
	}
	all, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0, err
	}
	files, err := strconv.ParseUint(string(fields[2]), 10, 64)
	return (all - min(all, files)) * uint64(os.Getpagesize()), err
}
