package plugins_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cmkd/backends"
	"cmkd/plugins"
	"cmkd/testenv"
)

// load runs callers until stop is called, which reports how many calls were
// answered and what failed.
func load(t *testing.T, h *plugins.Host, callers int) (calls *atomic.Int64, stop func()) {
	t.Helper()
	calls = new(atomic.Int64)
	var wg sync.WaitGroup
	done := make(chan struct{})
	for i := range callers {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				text := fmt.Sprintf("%d/%d", i, n)
				out, err := h.Encrypt(context.Background(), encryptRequest("", text))
				if err != nil {
					t.Errorf("call %s: %v", text, err)
					return
				}
				if string(out.Sealed.Ciphertext) != text {
					t.Errorf("call %s got the answer %q", text, out.Sealed.Ciphertext)
					return
				}
				calls.Add(1)
			}
		})
	}
	return calls, func() { close(done); wg.Wait() }
}

// progress waits until n more calls were answered, or the test has failed.
func progress(t *testing.T, calls *atomic.Int64, n int64) {
	t.Helper()
	for until := calls.Load() + n; calls.Load() < until && !t.Failed(); {
		time.Sleep(time.Millisecond) // polls a counter
	}
}

func TestKillUnderLoad(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			t.Parallel()
			s := spec(t, nil)
			s.Config.Workers = workers
			h := start(t, s)
			calls, stop := load(t, h, 32)
			for range 20 {
				progress(t, calls, 100)
				kill(t, h.Status().PID)
			}
			progress(t, calls, 100)
			stop()
			if s := h.Status(); s.Restarts < 1 || s.Phase != plugins.Ready {
				t.Errorf("after 20 times kill -9: %+v", s)
			}
		})
	}
}

func TestLostProcessIsReplaced(t *testing.T) {
	t.Parallel()
	for _, order := range []string{"crash", "hang", "stop", "lost", "deadline", "expired"} {
		t.Run(order, func(t *testing.T) {
			t.Parallel()
			s := spec(t, nil)
			s.Config.QuickTimeout = 500 * time.Millisecond
			s.HeartbeatInterval = 100 * time.Millisecond
			if order == "deadline" || order == "expired" {
				// The backend itself sees its deadline, before it is overdue.
				s.HeartbeatInterval = time.Minute
			}
			h := start(t, s)
			pid := h.Status().PID
			ended := pidfd(t, pid)
			calls, stop := load(t, h, 8)
			once := "once " + filepath.Join(shortDir(t), "once") + " " + order
			mustEncrypt(t, h, once)
			progress(t, calls, 100)
			stop()
			awaitExit(t, ended)
			if s := h.Status(); s.PID == pid || s.Restarts != 1 || s.LastError == "" {
				t.Errorf("pid %d before: %+v", pid, s)
			}
		})
	}
}

// TestGrownProcessIsReplaced: a plugin that leaks is swapped without a loss.
func TestGrownProcessIsReplaced(t *testing.T) {
	t.Parallel()
	s := spec(t, nil)
	s.MaxGrowth = 32 << 20
	s.HeartbeatInterval = 50 * time.Millisecond
	h := start(t, s)
	pid := h.Status().PID
	ended := pidfd(t, pid)
	calls, stop := load(t, h, 8)
	for h.Status().PID == pid {
		mustEncrypt(t, h, "grow")
	}
	progress(t, calls, 100)
	stop()
	awaitExit(t, ended)
	if s := h.Status(); s.Restarts != 0 || s.Phase != plugins.Ready {
		t.Errorf("after a process grew: %+v", s)
	}
}

// TestStoppedPlugin keeps the defaults: they must replace a stopped process
// within 5 s.
func TestStoppedPlugin(t *testing.T) {
	t.Parallel()
	h := start(t, spec(t, nil))
	if err := syscall.Kill(h.Status().PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	mustEncrypt(t, h, "")
	t.Logf("answered %v after SIGSTOP", time.Since(began))
}

// TestStandstill: a machine that stands still, longer than a process may take to tell
// of its health, does not cost the process.
func TestStandstill(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, _ *testenv.Token) {
		s := spec(t, nil)
		s.HeartbeatTimeout = 5 * time.Second
		h := start(t, s)
		pid := h.Status().PID
		// The plugin first, so that its health has been asked for when all stands still,
		// and back last, when that has taken too long.
		still := exec.CommandContext(t.Context(), "sh", "-c",
			"kill -STOP $1; sleep 0.8; kill -STOP $2; sleep 5; kill -CONT $2; sleep 0.2; kill -CONT $1",
			"sh", strconv.Itoa(pid), strconv.Itoa(os.Getpid()))
		if out, err := still.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		mustEncrypt(t, h, "")
		if s := h.Status(); s.PID != pid || s.Restarts != 0 {
			t.Errorf("pid %d before: %+v", pid, s)
		}
	})
}

func TestCallThatKillsEveryProcess(t *testing.T) {
	t.Parallel()
	h := start(t, spec(t, nil))
	calls, stop := load(t, h, 8)
	_, err := h.Encrypt(t.Context(), encryptRequest("crash", ""))
	if backends.CodeOf(err) != backends.Lost {
		t.Errorf("a call that crashes every process: %v, want Lost", err)
	}
	progress(t, calls, 100)
	stop() // none of the others has failed
}

func TestLoginFailedIsLatched(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	opens, bad := filepath.Join(dir, "opens"), filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := spec(t, map[string]string{"opens": opens, "while-exists": bad, "open-error": string(backends.LoginFailed)})
	h := launch(t, s)
	for range 100 {
		if err := h.Wait(t.Context()); backends.CodeOf(err) != backends.LoginFailed {
			t.Fatalf("Wait: %v", err)
		}
		if _, err := h.Encrypt(t.Context(), encryptRequest("", "")); backends.CodeOf(err) != backends.LoginFailed {
			t.Fatalf("Encrypt: %v", err)
		}
	}
	if st := h.Status(); st.Phase != plugins.LoginFailed {
		t.Errorf("%+v", st)
	}
	tries := func() int {
		b, err := os.ReadFile(opens)
		if err != nil {
			t.Fatal(err)
		}
		return len(b)
	}
	if tries() != 1 {
		t.Errorf("the PIN was tried %d times", tries())
	}
	if err := h.Reload(t.Context(), s); backends.CodeOf(err) != backends.LoginFailed || tries() != 2 {
		t.Errorf("Reload with the same PIN: %v after %d tries", err, tries())
	}
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}
	if err := h.Reload(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	mustEncrypt(t, h, "")
}

func TestTokenThatComesBack(t *testing.T) {
	t.Parallel()
	away := filepath.Join(shortDir(t), "away")
	h := start(t, spec(t, map[string]string{"while-exists": away, "open-error": string(backends.Lost)}))
	other := start(t, spec(t, nil))
	calls, stop := load(t, other, 4)

	if err := os.WriteFile(away, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := h.Encrypt(t.Context(), encryptRequest("lost", ""))
	if backends.CodeOf(err) != backends.Lost || !strings.Contains(err.Error(), "as the test wants") {
		t.Errorf("the token is away: %v", err)
	}
	if st := h.Status(); st.Phase != plugins.Failed {
		t.Errorf("%+v", st)
	}
	if err := os.Remove(away); err != nil {
		t.Fatal(err)
	}
	for h.Wait(t.Context()) != nil && t.Context().Err() == nil {
		time.Sleep(time.Millisecond) // polls; the test's own time limit ends it
	}
	mustEncrypt(t, h, "")
	progress(t, calls, 100)
	stop() // the other plugin's callers have noticed nothing
	if st := other.Status(); st.Restarts != 0 {
		t.Errorf("the other plugin: %+v", st)
	}
}

func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	s := spec(t, nil)
	h := start(t, s)
	calls, stop := load(t, h, 16)
	for i := range 5 {
		progress(t, calls, 100)
		ended := pidfd(t, h.Status().PID)
		s.Config.TokenLabel = "token " + strconv.Itoa(i)
		if err := h.Reload(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		out, err := h.Info(t.Context(), &backends.InfoRequest{})
		if err != nil || out.Facts["label"] != s.Config.TokenLabel {
			t.Errorf("after Reload: %v, %v", out, err)
		}
		awaitExit(t, ended)
	}
	bad := s
	bad.Path = "/nonexistent/plugin"
	if err := h.Reload(t.Context(), bad); err == nil {
		t.Error("Reload to a plugin that is not there succeeded")
	}
	progress(t, calls, 100)
	stop()
	if st := h.Status(); st.Restarts != 0 || st.Phase != plugins.Ready {
		t.Errorf("%+v", st)
	}
}

func TestCloseDrains(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	closed, waiting := filepath.Join(dir, "closed"), filepath.Join(dir, "waiting")
	h := start(t, spec(t, map[string]string{"closed": closed, "waiting": waiting}))
	result := make(chan error, 1)
	go func() {
		_, err := h.CreateKey(context.Background(), &backends.CreateKeyRequest{Label: "wait"})
		result <- err
	}()
	for _, err := os.Stat(waiting); err != nil && t.Context().Err() == nil; _, err = os.Stat(waiting) {
		time.Sleep(time.Millisecond)
	}
	if _, err := h.DestroyKey(t.Context(), &backends.DestroyKeyRequest{}); err != nil { // lets it go
		t.Fatal(err)
	}
	if err := h.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	if b, err := os.ReadFile(closed); err != nil || string(b) != "c" {
		t.Errorf("the backend was closed %d times, %v", len(b), err)
	}
	if _, err := h.Encrypt(t.Context(), encryptRequest("", "")); backends.CodeOf(err) != backends.Lost {
		t.Errorf("after Close: %v", err)
	}
	if err := h.Reload(t.Context(), spec(t, nil)); backends.CodeOf(err) != backends.Lost {
		t.Errorf("Reload after Close: %v", err)
	}
}

func TestCloseGivesUpOnACallThatHangs(t *testing.T) {
	t.Parallel()
	h := start(t, spec(t, nil))
	ended := pidfd(t, h.Status().PID)
	result := make(chan error, 1)
	go func() {
		_, err := h.Encrypt(context.Background(), encryptRequest("hang", ""))
		result <- err
	}()
	for h.Status().InFlight == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	awaitExit(t, ended)
	if err := <-result; backends.CodeOf(err) != backends.Lost {
		t.Errorf("the call that hung: %v", err)
	}
}

func TestChildrenOfThePluginEndWithIt(t *testing.T) {
	t.Parallel()
	child := filepath.Join(shortDir(t), "child")
	h := start(t, spec(t, map[string]string{"child": child}))
	b, err := os.ReadFile(child)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil {
		t.Fatal(err)
	}
	ended := pidfd(t, pid)
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitExit(t, ended)
}

// parent is a daemon that only starts a plugin, says its PID and waits.
func parent() {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	h, err := plugins.Start(context.Background(), plugins.Spec{
		Name: "orphan", Path: path, Dir: os.Getenv("CMKD_TEST_DIR"),
		Env:    map[string]string{modeEnv: "plugin"},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	if err := h.Wait(context.Background()); err != nil {
		panic(err)
	}
	fmt.Println(h.Status().PID)
	select {}
}

func TestNoOrphan(t *testing.T) {
	t.Parallel()
	for _, stopped := range []bool{false, true} {
		path, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), path)
		cmd.Env = append(os.Environ(), modeEnv+"=parent", "CMKD_TEST_DIR="+shortDir(t))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		ended := pidfd(t, pid)
		if stopped {
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		awaitExit(t, ended)
	}
}

func TestServeByHand(t *testing.T) {
	t.Parallel()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, cookie := range []string{"", "CMKD_PLUGIN=f5b1c0de-7a6e-4b7c-9d2a-5d6f6b6d6b63"} {
		cmd := exec.CommandContext(t.Context(), path)
		cmd.Env = append(os.Environ(), modeEnv+"=plugin", cookie)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "memory is a plugin of cmkd") {
			t.Errorf("by hand: %v, %s", err, out)
		}
	}
}
