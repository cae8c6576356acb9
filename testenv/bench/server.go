package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/BurntSushi/toml"
)

// server is a running daemon.
type server struct {
	socket string
	module string // of its token
	cmd    *exec.Cmd
	http   *http.Client
	log    *os.File
	pids   []int // of the plugins
}

// startServer makes a token, as `cmkctl init` does, and starts the daemon.
func startServer(ctx context.Context, bin, dir string) (*server, error) {
	home := filepath.Join(dir, "cmkd")
	// A daemon runs no plugin that another user could change, as in another user's clone.
	own := filepath.Join(dir, "bin")
	if err := os.CopyFS(own, os.DirFS(bin)); err != nil {
		return nil, err
	}
	bin = own
	setup := exec.CommandContext(ctx, filepath.Join(bin, "cmkctl"), "init", "--dir", home, "--softhsm")
	if out, err := setup.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cmkctl init: %w\n%s", err, out)
	}
	var config struct {
		Socket struct{ Path string }
		Token  []struct{ Module string }
	}
	file := filepath.Join(home, "config.toml")
	if _, err := toml.DecodeFile(file, &config); err != nil {
		return nil, err
	}
	s := &server{socket: config.Socket.Path, module: config.Token[0].Module}
	s.http = &http.Client{Transport: &http.Transport{DialContext: s.dial}}
	var err error
	if s.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	s.cmd = exec.Command(filepath.Join(bin, "cmkd"), "-config", file) //nolint:noctx // stop ends it
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *server) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", s.socket)
}

// ready waits until the daemon answers, and finds its plugins.
func (s *server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var keys struct{}
		err := s.call(ctx, "ListKeys", map[string]any{}, &keys)
		if err == nil {
			return s.findPlugins()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the daemon is not ready: %w", err)
		}
	}
}

// call makes a call with the standard library's client.
func (s *server) call(ctx context.Context, operation string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("X-Amz-Target", "TrentService."+operation)
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	answer, err := s.http.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, text)
	}
	return json.Unmarshal(text, out)
}

// stop ends the daemon.
func (s *server) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	err := s.cmd.Wait()
	if err != nil {
		text, _ := os.ReadFile(s.log.Name()) // the first error is what matters
		err = fmt.Errorf("cmkd: %w\n%s", err, text)
	}
	return errors.Join(err, s.log.Close())
}

// findPlugins finds the children of the daemon.
func (s *server) findPlugins() error {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.cmd.Process.Pid))
	if err != nil {
		return err
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // a thread that has ended has no children
		}
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return err
			}
			s.pids = append(s.pids, pid)
		}
	}
	return nil
}

// usage is the processor time used so far, in user and system mode.
type usage struct{ daemon, plugins, client time.Duration }

func (s *server) usage() (usage, error) {
	var u usage
	var err error
	if u.daemon, err = processorTime(s.cmd.Process.Pid); err != nil {
		return u, err
	}
	if u.client, err = processorTime(os.Getpid()); err != nil {
		return u, err
	}
	for _, pid := range s.pids {
		t, err := processorTime(pid)
		if err != nil {
			return u, err
		}
		u.plugins += t
	}
	return u, nil
}

// processorTime adds up the threads of a process: schedstat, unlike stat, has
// nanoseconds (proc_pid_schedstat).
func processorTime(pid int) (time.Duration, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		running, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(running, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}
