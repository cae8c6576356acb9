package plugins

import (
	"sync"
	"time"
)

// processes are the plugins' processes of this program by process ID: int to *Process.
var processes sync.Map

// Process is a plugin's process.
type Process struct {
	Path string    // of its executable
	Seen sync.Once // for whoever reports what it does where it has no business
}

// forgetAfter is how long a process is known after its end: a connection that it made
// just before may be accepted later. The kernel gives process IDs in turn, so another
// process gets the same one far later.
const forgetAfter = 10 * time.Second

// OfProcess returns the plugin's process with the ID, if it is one of this program's or
// was a moment ago.
func OfProcess(pid int) (*Process, bool) {
	p, ok := processes.Load(pid)
	if !ok {
		return nil, false
	}
	return p.(*Process), true
}

// knowProcess notes a process, and forgetProcess its end.
func knowProcess(pid int, path string) { processes.Store(pid, &Process{Path: path}) }

func forgetProcess(pid int) {
	if p, ok := processes.Load(pid); ok {
		time.AfterFunc(forgetAfter, func() { processes.CompareAndDelete(pid, p) })
	}
}
