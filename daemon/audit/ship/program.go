package ship

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cmkd/daemon/audit"
)

// Program is a program that reads the lines of the trail on its standard input. It has
// no environment but PATH, and no other descriptor of the daemon's; what it says on
// standard error is in the status if it ends.
//
// A record is taken when the program has read it and has lived on for two seconds. A
// program that Acknowledges writes the sequence number of the last record that it has
// stored on its standard output, a line each time, and nothing else counts.
type Program struct {
	Command      []string // absolute path, arguments
	Acknowledges bool
	settle       time.Duration // for tests; 0 is settleTime
}

// programPath is the PATH of programs.
const programPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// String implements [Receiver]. Arguments may be secret: a hash stands for them.
func (p *Program) String() string {
	if len(p.Command) == 1 {
		return "program:" + p.Command[0]
	}
	sum := sha256.Sum256([]byte(strings.Join(p.Command[1:], "\x00")))
	return fmt.Sprintf("program:%s#%x", p.Command[0], sum[:4])
}

// Open implements [Receiver].
func (p *Program) Open(context.Context) (Conn, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	// It ends with its input, not with a context: see Close.
	cmd := exec.CommandContext(context.Background(), p.Command[0], p.Command[1:]...) //nolint:gosec // as the administrator says
	cmd.Env, cmd.Dir, cmd.Stdin = []string{programPath}, "/", in
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c := &programConn{cmd: cmd, in: out, after: cmp.Or(p.settle, settleTime), ended: make(chan struct{}), acknowledges: p.Acknowledges}
	cmd.Stderr = &c.said
	cmd.WaitDelay = time.Second // for who has its output and lives on
	if p.Acknowledges {
		cmd.Stdout = &c.acks
	}
	// What whoever started the daemon left open is none of the program's business.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, errors.Join(fmt.Errorf("closing descriptors to the program: %w", err), in.Close(), out.Close())
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	in.Close() //nolint:errcheck // the program has it
	go func() {
		c.err = cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

type programConn struct {
	cmd *exec.Cmd
	in  *os.File
	settling
	after        time.Duration
	acknowledges bool
	acks         acknowledgements
	open         []uint64 // sequences that were sent, and not acknowledged
	acknowledged int
	said         lastWords
	ended        chan struct{} // closed when the program has ended
	err          error         // readable then
}

// Send implements [Conn].
func (c *programConn) Send(ctx context.Context, lines [][]byte) error {
	text := append(bytes.Join(lines, []byte("\n")), '\n')
	if err := write(ctx, c.in, text); err != nil {
		if gone := c.alive(); gone != nil {
			return gone
		}
		return err
	}
	c.add(len(text), len(lines))
	if c.acknowledges {
		for _, line := range lines {
			c.open = append(c.open, audit.LineSequence(line))
		}
	}
	return nil
}

// Taken implements [Conn].
func (c *programConn) Taken(context.Context) (int, error) {
	if c.acknowledges {
		stored := c.acks.last()
		for len(c.open) > 0 && c.open[0] <= stored {
			c.open = c.open[1:]
			c.acknowledged++
		}
		return c.acknowledged, c.alive()
	}
	raw, err := c.in.SyscallConn()
	if err != nil {
		return c.taken, err
	}
	unread, err := queued(raw, unix.TIOCINQ)
	if err != nil {
		return c.taken, err
	}
	return c.settle(unread, c.after, c.alive)
}

// alive is an error if the program has ended.
func (c *programConn) alive() error {
	select {
	case <-c.ended:
		return fmt.Errorf("the program has ended (%s)%s", c.cmd.ProcessState, c.said.text())
	default:
		return nil
	}
}

// closeGrace is how long a program may go on after its input has ended.
const closeGrace = 5 * time.Second

// Close implements [Conn]: the program sees the end of its input, and is killed with
// its group if it does not end then.
func (c *programConn) Close() {
	c.in.Close() //nolint:errcheck // what was not taken is sent again
	select {
	case <-c.ended:
		return
	case <-time.After(closeGrace):
	}
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // it may have ended just now
	<-c.ended
}

// acknowledgements reads the sequence numbers that a program writes.
type acknowledgements struct {
	mu       sync.Mutex
	rest     []byte
	sequence uint64
}

// Write implements [io.Writer].
func (a *acknowledgements) Write(text []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rest = append(a.rest, text...)
	for {
		line, rest, ok := bytes.Cut(a.rest, []byte("\n"))
		if !ok {
			break
		}
		if n, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 10, 64); err == nil {
			a.sequence = max(a.sequence, n)
		}
		a.rest = rest
	}
	if len(a.rest) > bufio.MaxScanTokenSize {
		a.rest = nil // it is not a number
	}
	return len(text), nil
}

func (a *acknowledgements) last() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sequence
}

// lastWords keeps the end of what a program says.
type lastWords struct {
	mu  sync.Mutex
	end []byte
}

// maxWords is how much of it, in bytes.
const maxWords = 512

// Write implements [io.Writer].
func (w *lastWords) Write(text []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end = append(w.end, text[max(0, len(text)-maxWords):]...)
	w.end = w.end[max(0, len(w.end)-maxWords):]
	return len(text), nil
}

func (w *lastWords) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if end := bytes.TrimSpace(w.end); len(end) > 0 {
		return ": " + strconv.Quote(string(end))
	}
	return ""
}
