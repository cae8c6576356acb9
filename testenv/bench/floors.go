package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cmkd/testenv/callers"
)

// The floors are what a call cannot do without: an answer of net/http of the same size, a record of
// the audit trail on the disk, and what the token takes. They are measured in each round.
type floors struct {
	dir    string
	socket string
	cmd    *exec.Cmd // the bare server
	file   *os.File
	record []byte

	http, sync []time.Duration // p50 of each round: one caller, one record
	answers    []float64       // of the bare server with most callers, per second
}

const (
	answerSize = 320  // bytes of the body: that of an Encrypt of 32 bytes
	recordSize = 1100 // bytes of its record in the audit trail
)

// serveFloor answers whatever is asked on a socket until it is killed.
func serveFloor(path string) error {
	answer := []byte(`{"A":"` + strings.Repeat("a", answerSize-8) + `"}`)
	ln, err := net.Listen("unix", path) //nolint:noctx // for as long as the process lives
	if err != nil {
		return err
	}
	s := http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header()["Content-Type"] = []string{"application/x-amz-json-1.1"}
		_, _ = w.Write(answer)
	})}
	return s.Serve(ln)
}

// startFloors starts this program again as the bare server.
func startFloors(ctx context.Context, dir string) (*floors, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f := &floors{dir: dir, socket: filepath.Join(dir, "floor.sock"), record: []byte(strings.Repeat("r", recordSize-1) + "\n")}
	if f.file, err = os.OpenFile(filepath.Join(dir, "floor.jsonl"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return nil, err
	}
	f.cmd = exec.CommandContext(ctx, self, "-floor", f.socket)
	f.cmd.Stderr = os.Stderr
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	for range 1000 {
		if c, err := (&net.Dialer{}).DialContext(ctx, "unix", f.socket); err == nil {
			return f, c.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, errors.Join(errors.New("the bare server does not answer"), f.stop())
}

// measure takes two times d, and a fifth of it for the disk.
func (f *floors) measure(ctx context.Context, most int, d time.Duration) error {
	one, err := callers.Run(ctx, callers.Options{Socket: f.socket, Request: request("Encrypt", []byte("{}")), Callers: 1}, d)
	if err != nil {
		return err
	}
	many, err := callers.Run(ctx, callers.Options{Socket: f.socket, Request: request("Encrypt", []byte("{}")), Callers: most}, d)
	if err != nil {
		return err
	}
	var syncs []time.Duration
	for began := time.Now(); len(syncs) == 0 || time.Since(began) < d/5; {
		at := time.Now()
		if _, err := f.file.Write(f.record); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(f.file.Fd())); err != nil {
			return fmt.Errorf("fdatasync: %w", err)
		}
		syncs = append(syncs, time.Since(at))
	}
	f.http, f.sync = append(f.http, one.P50), append(f.sync, median(syncs))
	f.answers = append(f.answers, float64(many.Calls)/many.Took.Seconds())
	return nil
}

// sum is what one call took at least in the last rounds, with a token that makes so many calls a
// second in one thread.
func (f *floors) sum(rounds int, token float64) time.Duration {
	n := len(f.http) - rounds
	return median(f.http[n:]) + median(f.sync[n:]) + time.Duration(float64(time.Second)/token)
}

func (f *floors) String() string {
	return fmt.Sprintf("bare answer of net/http %s (%.0f/s with most callers), fdatasync of a record %s",
		text(median(f.http)), median(f.answers), text(median(f.sync)))
}

func (f *floors) stop() error {
	_ = f.cmd.Process.Kill() // it may have ended
	_ = f.cmd.Wait()
	return f.file.Close()
}
