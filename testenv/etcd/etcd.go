// Package etcd runs real etcd servers for tests, on loopback, each with a data folder of
// its own in memory.
package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Server is an etcd server, alone or a member of a cluster.
type Server struct {
	Endpoint string // of clients, a URL
	// Security is what the server and clients show each other from the next Run on; nil: nothing, over http.
	Security *Security

	name, dir, peer, cluster string

	mu      sync.Mutex // guards what follows
	process *exec.Cmd  // nil while it does not run
	ended   chan struct{}
	log     bytes.Buffer // of all processes
}

// Start starts a server that lives as long as the test.
func Start(t testing.TB) *Server {
	t.Helper()
	return StartCluster(t, 1)[0]
}

// StartSecure starts a server that is asked over TLS, and asks clients for their certificate.
func StartSecure(t testing.TB, security *Security) *Server {
	t.Helper()
	return start(t, 1, security)[0]
}

// StartCluster starts as many servers as one cluster.
func StartCluster(t testing.TB, n int) []*Server {
	t.Helper()
	return start(t, n, nil)
}

func start(t testing.TB, n int, security *Security) []*Server {
	t.Helper()
	scheme := "http://"
	if security != nil {
		scheme = "https://"
	}
	servers := make([]*Server, n)
	var members []string
	for i := range servers {
		s := &Server{name: fmt.Sprintf("etcd%d", i+1), dir: dir(t), Endpoint: scheme + freeAddress(t), Security: security, peer: "http://" + freeAddress(t)}
		members = append(members, s.name+"="+s.peer)
		servers[i] = s
	}
	for _, s := range servers {
		s.cluster = strings.Join(members, ",")
		s.Run(t)
		t.Cleanup(func() {
			s.Kill()
			if t.Failed() {
				s.mu.Lock()
				defer s.mu.Unlock()
				t.Logf("end of the log of %s:\n%s", s.name, s.log.Bytes()[max(0, s.log.Len()-4000):])
			}
		})
	}
	for _, s := range servers {
		s.Await(t)
	}
	return servers
}

// dir is a folder for the data: in memory, where fsync costs nothing.
func dir(t testing.TB) string {
	t.Helper()
	d, err := os.MkdirTemp("/dev/shm", "cmkd-etcd-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(d) })
	return d
}

// Host is where all servers of this process are.
func Host() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 64+pid>>16&63, pid>>8&255, pid&255)
}

// freeAddress is an address on loopback where nobody listens. Each process has a host of its
// own there, so that no connection of another takes the port before the server listens.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", Host()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// Run starts the server's process, again after Kill, with further arguments.
func (s *Server) Run(t testing.TB, args ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Security != nil {
		args = append(s.Security.arguments(), args...)
	}
	cmd := exec.CommandContext(context.Background(), "etcd", append([]string{ // it outlives t.Context in cleanups
		"--name", s.name, "--data-dir", filepath.Join(s.dir, "data"),
		"--listen-client-urls", s.Endpoint, "--advertise-client-urls", s.Endpoint,
		"--listen-peer-urls", s.peer, "--initial-advertise-peer-urls", s.peer,
		"--initial-cluster", s.cluster, "--initial-cluster-state", "new",
		"--heartbeat-interval", "20", "--election-timeout", "200", "--logger", "zap", "--log-level", "warn",
	}, args...)...)
	cmd.Stdout, cmd.Stderr = lockedWriter{s}, lockedWriter{s}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() { // Pdeathsig follows the thread that starts the process
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(ended)
	}()
	if err := <-started; err != nil {
		t.Fatalf("starting etcd: %v (are the packages of `make deps` installed?)", err)
	}
	s.process, s.ended = cmd, ended
}

// Save keeps what the server has, which does not run meanwhile.
func (s *Server) Save(t testing.TB) {
	t.Helper()
	s.Kill()
	if err := os.CopyFS(filepath.Join(s.dir, "saved"), os.DirFS(filepath.Join(s.dir, "data"))); err != nil {
		t.Fatal(err)
	}
	s.Run(t)
	s.Await(t)
}

// Rewind gives the server what it had at Save.
func (s *Server) Rewind(t testing.TB) {
	t.Helper()
	s.Kill()
	data := filepath.Join(s.dir, "data")
	if err := errors.Join(os.RemoveAll(data), os.Rename(filepath.Join(s.dir, "saved"), data)); err != nil {
		t.Fatal(err)
	}
	s.Run(t)
	s.Await(t)
}

type lockedWriter struct{ s *Server }

func (w lockedWriter) Write(p []byte) (int, error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.s.log.Write(p)
}

// Await returns when the server answers and has a leader.
func (s *Server) Await(t testing.TB) {
	t.Helper()
	c := s.Client(t)
	defer func() { _ = c.Close() }()
	for deadline := time.Now().Add(time.Minute); ; {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := c.Get(ctx, "x")
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("etcd does not answer: %v", err)
		}
	}
}

// Client is a client of this server alone. The caller closes it.
func (s *Server) Client(t testing.TB) *clientv3.Client {
	t.Helper()
	cfg := clientv3.Config{Endpoints: []string{s.Endpoint}, Logger: zap.NewNop(), DialTimeout: 5 * time.Second}
	if s.Security != nil {
		cfg.TLS = s.Security.client(t)
	}
	c, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Signal sends a signal to the process. After SIGSTOP it does nothing any more.
func (s *Server) Signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.process.Process.Signal(signal); err != nil {
		t.Errorf("signal %v to etcd: %v", signal, err)
	}
	for signal == syscall.SIGSTOP && !stopped(s.process.Process.Pid) {
		time.Sleep(time.Millisecond)
	}
}

// stopped reports whether all threads of a process are stopped, or have ended.
func stopped(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	return !slices.ContainsFunc(threads, func(path string) bool {
		stat, err := os.ReadFile(path)
		_, after, _ := bytes.Cut(stat, []byte(") "))
		return err == nil && !bytes.HasPrefix(after, []byte("T"))
	})
}

// Kill ends the process with SIGKILL, if it runs, and waits for its end.
func (s *Server) Kill() {
	s.mu.Lock()
	cmd, ended := s.process, s.ended
	s.process = nil
	s.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Kill()
		<-ended
	}
}
