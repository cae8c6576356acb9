package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/creack/pty"

	"cmkd/socket/cmd/cmkctl/internal/clitest"
	"cmkd/testenv/rig"
)

// sealRig is a daemon with a key, and a folder with a backup of yesterday in it.
type sealRig struct {
	*rig.Rig
	key string
}

func newSealRig(t *testing.T) *sealRig {
	t.Helper()
	r := rig.New(t, rig.Config{Regions: []string{"eu-west-1"}})
	out, err := r.Client("").CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	return &sealRig{r, *out.KeyMetadata.KeyId}
}

// command is a cmkctl for the daemon.
func (r *sealRig) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "cmkctl", append([]string{"--socket", r.Socket}, args...)...)
	cmd.Env = append(os.Environ(), "AWS_REGION=", "AWS_DEFAULT_REGION=")
	return cmd
}

// oldFile makes a folder with a file of yesterday.
func oldFile(t *testing.T) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "b")
	clitest.MustWrite(t, path)
	return dir, path
}

// begun waits until a pending output in dir has size bytes or more.
func begun(t *testing.T, dir string, size int64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		pending, _ := filepath.Glob(filepath.Join(dir, ".b.*"))
		for _, path := range pending {
			if info, err := os.Stat(path); err == nil && info.Size() >= size {
				return
			}
		}
	}
	t.Fatal("cmkctl has not begun within a minute")
}

// failed waits for a command and checks that it does not claim success.
func failed(t *testing.T, cmd *exec.Cmd, what string) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err == nil {
			t.Errorf("%s: exit status 0", what)
		}
	case <-time.After(time.Minute):
		t.Errorf("%s: it goes on", what)
		_ = cmd.Process.Kill()
		<-ended
	}
}

// TestSealKeepsTheOldFileWhenASignalComes ends a pipe by signals: to seal alone,
// to the whole group, and as systemd sends them, to one process after the other.
func TestSealKeepsTheOldFileWhenASignalComes(t *testing.T) {
	t.Parallel()
	r := newSealRig(t)
	type pipe struct{ producer, seal *exec.Cmd }
	group := func(s syscall.Signal) func(pipe) error {
		return func(p pipe) error { return syscall.Kill(-p.producer.Process.Pid, s) }
	}
	for name, c := range map[string]struct {
		by   syscall.Signal
		kill func(pipe) error
	}{
		"SIGTERM":          {syscall.SIGTERM, func(p pipe) error { return p.seal.Process.Signal(syscall.SIGTERM) }},
		"SIGTERM to group": {syscall.SIGTERM, group(syscall.SIGTERM)},
		"SIGINT to group":  {syscall.SIGINT, group(syscall.SIGINT)},
		"SIGHUP to group":  {syscall.SIGHUP, group(syscall.SIGHUP)},
		"SIGQUIT to group": {syscall.SIGQUIT, group(syscall.SIGQUIT)},
		"SIGINT twice": {syscall.SIGINT, func(p pipe) error {
			return errors.Join(p.seal.Process.Signal(syscall.SIGINT), p.seal.Process.Signal(syscall.SIGINT))
		}},
		"producer first": {syscall.SIGTERM, func(p pipe) error {
			if err := p.producer.Process.Signal(syscall.SIGTERM); err != nil {
				return err
			}
			return p.seal.Process.Signal(syscall.SIGTERM)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, path := oldFile(t)
			in, out, err := os.Pipe()
			clitest.Must(t, err)
			producer := exec.CommandContext(t.Context(), "sh", "-c", "head -c 300000 /dev/zero; exec sleep 600")
			producer.Stdout, producer.SysProcAttr = out, &syscall.SysProcAttr{Setpgid: true}
			clitest.Must(t, producer.Start(), out.Close())
			seal := r.command(t, "seal", "-k", r.key, "--out", path)
			seal.Stdin, seal.SysProcAttr = in, &syscall.SysProcAttr{Setpgid: true, Pgid: producer.Process.Pid}
			clitest.Must(t, seal.Start(), in.Close())
			begun(t, dir, 200000)
			clitest.Must(t, c.kill(pipe{producer, seal}))
			failed(t, seal, name)
			ended, _ := seal.ProcessState.Sys().(syscall.WaitStatus)
			if c.by == syscall.SIGQUIT || signal.Ignored(c.by) { // as nohup has it, from which the process inherits that
				if ended.ExitStatus() != 128+int(c.by) {
					t.Errorf("%s: seal ended with %s, not with status %d", name, seal.ProcessState, 128+c.by)
				}
			} else if !ended.Signaled() || ended.Signal() != c.by {
				t.Errorf("%s: seal ended with %s, not by the signal", name, seal.ProcessState)
			}
			_ = producer.Process.Kill()
			_ = producer.Wait()
			clitest.Holds(t, path, clitest.Yesterday)
			clitest.Names(t, dir, "b")
		})
	}
}

// TestCtrlCEndsSealAtATerminal types Ctrl-C where seal waits for input.
func TestCtrlCEndsSealAtATerminal(t *testing.T) {
	t.Parallel()
	r := newSealRig(t)
	dir, path := oldFile(t)
	tty, child, err := pty.Open()
	clitest.Must(t, err)
	defer tty.Close()
	seal := r.command(t, "seal", "-k", r.key, "--out", path)
	seal.Stdin, seal.Stderr = child, child
	seal.Env = append(seal.Env, "TERM=xterm")
	seal.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	clitest.Must(t, seal.Start(), child.Close())
	begun(t, dir, 1)
	_, err = io.WriteString(tty, "\x03")
	clitest.Must(t, err)
	failed(t, seal, "Ctrl-C")
	if said, _ := io.ReadAll(tty); strings.Contains(string(said), "sealing") {
		t.Errorf("a bar is drawn over what is typed: %q", said)
	}
	clitest.Holds(t, path, clitest.Yesterday)
	clitest.Names(t, dir, "b")
}

// TestSealIsNotForTerminals has a sealed file go to a terminal, by every name.
func TestSealIsNotForTerminals(t *testing.T) {
	t.Parallel()
	r := newSealRig(t)
	for _, output := range []string{"-", "/dev/stdout", "/dev/tty"} {
		tty, child, err := pty.Open()
		clitest.Must(t, err)
		seal := r.command(t, "seal", "-k", r.key, "--out", output)
		var said bytes.Buffer
		seal.Stdin, seal.Stdout, seal.Stderr = strings.NewReader("x"), child, &said
		seal.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
		clitest.Must(t, seal.Start(), child.Close())
		failed(t, seal, output)
		if !strings.Contains(said.String(), "refusing to write binary data to a terminal; use --out") {
			t.Errorf("%s: %s", output, said.String())
		}
		_ = tty.Close()
	}
}

// TestSealedFileNamesItsRegion opens a file with another Region in the
// environment, and looks at what the audit trail holds of it: no call that failed.
func TestSealedFileNamesItsRegion(t *testing.T) {
	t.Parallel()
	r := newSealRig(t)
	dir, path := oldFile(t)
	plain := filepath.Join(dir, "plain")
	clitest.Must(t, os.WriteFile(plain, []byte(clitest.Today), 0o600))
	for _, step := range []struct {
		region, want string
		args         []string
	}{
		{"", "", []string{"seal", "-k", r.key, "-c", "host=db1,disk=2", "--out", path, plain}},
		{"eu-west-1", clitest.Today, []string{"open", "-c", "host=db1", path}},
		{"us-east-1", clitest.Today, []string{"open", "-c", "host=db1", "-c", "disk=2", path}},
		// It is a key of one Region.
		{"", clitest.Today, []string{"open", "--region", "ap-south-1", path}},
	} {
		cmd := r.command(t, step.args...)
		cmd.Env = append(os.Environ(), "AWS_REGION="+step.region)
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != step.want {
			t.Errorf("%q in %q: %q, %v", step.args, step.region, out, err)
		}
	}
	failures, sealed := 0, 0
	for line := range strings.Lines(r.AuditTrail(t)) {
		if strings.Contains(line, `"eventName":"GenerateDataKey"`) {
			sealed++
		}
		if strings.Contains(line, `"errorCode"`) {
			failures++
		}
	}
	if sealed != 1 || failures != 0 {
		t.Errorf("%d records of GenerateDataKey, %d of failures; want 1 and 0", sealed, failures)
	}
}

// TestOpenOfAForgedSignature opens a signed file of several frames whose signature is another:
// it fails, a file is as it was, and a pipe has got what open's help says that it may.
func TestOpenOfAForgedSignature(t *testing.T) {
	t.Parallel()
	r := newSealRig(t)
	dir, path := oldFile(t)
	sealed := filepath.Join(dir, "sealed")
	seal := r.command(t, "seal", "--sign", "-k", r.key, "--out", sealed)
	seal.Stdin = bytes.NewReader(make([]byte, 8<<20))
	clitest.Must(t, seal.Run())
	content, err := os.ReadFile(sealed)
	clitest.Must(t, err)
	content[len(content)-1] ^= 1
	clitest.Must(t, os.WriteFile(sealed, content, 0o600))
	if out, err := r.command(t, "open", "--out", path, sealed).CombinedOutput(); err == nil || !strings.Contains(string(out), "signature") {
		t.Errorf("into a file: %q, %v", out, err)
	}
	clitest.Holds(t, path, clitest.Yesterday)
	clitest.Names(t, dir, "b", "sealed")
	var piped, said bytes.Buffer
	open := r.command(t, "open", sealed)
	open.Stdout, open.Stderr = &piped, &said
	if err := open.Run(); err == nil || !strings.Contains(said.String(), "signature") {
		t.Errorf("into a pipe: %q, %v", said.String(), err)
	}
	if piped.Len() == 0 {
		t.Error("the pipe has got nothing: open's help says something else")
	}
}

// rateAndTime is how the bar shows the rate, and the time that has passed and that is left.
var rateAndTime = regexp.MustCompile(`[0-9] [kMG]?B/s\) \[[0-9ms]+:[0-9ms]+\]`)

// slowly takes so long that a bar is drawn more than once.
type slowly struct{}

func (slowly) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(len(p)) * time.Second / worthABar)
	return len(p), nil
}

// TestProgressIsInTheTerminalsOwnCharacters looks at the bar of a big file.
func TestProgressIsInTheTerminalsOwnCharacters(t *testing.T) {
	t.Parallel()
	r := newSealRig(t)
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	f, err := os.Create(big)
	clitest.Must(t, err)
	clitest.Must(t, f.Truncate(worthABar), f.Close())
	isASCII := func(b []byte) bool { return bytes.IndexFunc(b, func(r rune) bool { return r > '~' }) < 0 }
	for _, tt := range []struct {
		environ     []string
		bar, narrow bool
	}{
		{[]string{"TERM=xterm", "LC_ALL=C.UTF-8"}, true, false},
		{[]string{"TERM=xterm", "LC_ALL=C"}, true, true},
		{[]string{"TERM=xterm", "LC_ALL=", "LC_CTYPE=", "LANG=C"}, true, true},
		{[]string{"TERM=dumb", "LC_ALL=C.UTF-8"}, false, true},
	} {
		tty, child, err := pty.Open()
		clitest.Must(t, err)
		clitest.Must(t, pty.Setsize(tty, &pty.Winsize{Rows: 24, Cols: 80}))
		said := make(chan []byte, 1)
		go func() {
			all, _ := io.ReadAll(tty) // EIO when the other end is closed
			said <- all
		}()
		seal := r.command(t, "seal", "-k", r.key, big)
		seal.Env, seal.Stderr, seal.Stdout = append(seal.Env, tt.environ...), child, slowly{}
		clitest.Must(t, seal.Run(), child.Close())
		got := <-said
		if (len(got) > 0) != tt.bar || isASCII(got) != tt.narrow {
			t.Errorf("%v: %q", tt.environ, got)
		}
		if tt.bar && !rateAndTime.Match(got) {
			t.Errorf("%v: neither rate nor time left: %q", tt.environ, got)
		}
		_ = tty.Close()
	}
}

// TestOpenAtATerminal shows text, and no bytes that a terminal would obey.
func TestOpenAtATerminal(t *testing.T) {
	t.Parallel()
	r := newSealRig(t)
	for content, want := range map[string]string{
		clitest.Today:                  clitest.Today,
		clitest.Today + "\x1b]0;x\x07": "",
	} {
		sealed := filepath.Join(t.TempDir(), "sealed")
		seal := r.command(t, "seal", "-k", r.key, "--out", sealed)
		seal.Stdin = strings.NewReader(content)
		clitest.Must(t, seal.Run())
		tty, child, err := pty.Open()
		clitest.Must(t, err)
		open := r.command(t, "open", sealed)
		var said bytes.Buffer
		open.Stdout, open.Stderr = child, &said
		err = open.Run()
		clitest.Must(t, child.Close())
		shown, _ := io.ReadAll(tty) // EIO when the other end is closed
		if string(shown) != want || (err == nil) != (want != "") || want == "" && !strings.Contains(said.String(), "use --out or a pipe") {
			t.Errorf("%q: %q, %q, %v", content, shown, said.String(), err)
		}
		clitest.Must(t, tty.Close())
	}
}
