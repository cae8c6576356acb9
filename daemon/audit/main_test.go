package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// childEnv makes the test binary play one of the children below, each of
// which gets a log's directory as its argument.
const childEnv = "CMKD_AUDIT_TEST_CHILD"

var children = map[string]func(dir string) error{
	"append":    childAppends,
	"disk full": childDiskFull,
	"open":      childOpens,
}

func TestMain(m *testing.M) {
	if child, ok := children[os.Getenv(childEnv)]; ok {
		if err := child(os.Args[len(os.Args)-1]); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func childCommand(t *testing.T, name, dir string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, dir)
	cmd.Env = append(os.Environ(), childEnv+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}

// childAppends appends from eight goroutines forever and prints the request
// ID of each record that was acknowledged.
func childAppends(dir string) error {
	l, err := Open(Config{Dir: dir, SegmentBytes: 100_000})
	if err != nil {
		return err
	}
	failed := make(chan error)
	for c := range 8 {
		go func() {
			for i := 0; ; i++ {
				r := sample(0)
				r.RequestID = fmt.Sprintf("%d-%d-%d", os.Getpid(), c, i)
				if err := l.Append(context.Background(), r); err != nil {
					failed <- err
					return
				}
				fmt.Println(r.RequestID)
			}
		}()
	}
	return <-failed
}

// TestKill kills a process in the middle of its appends, several times: every
// acknowledged record is there, and the chain goes on.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	acknowledged := make(map[string]bool)
	for round := range 4 {
		cmd := childCommand(t, "append", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n := 0
		for lines := bufio.NewScanner(out); lines.Scan(); n++ {
			acknowledged[lines.Text()] = true
			if n == 200+31*round { // the child goes on meanwhile
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child was not killed")
		}
	}
	closeLog(t, openLog(t, Config{Dir: dir}))
	report, err := VerifyDir(dir, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text := readLog(t, dir)
	for id := range acknowledged {
		if !strings.Contains(text, `"requestID":"`+id+`"`) {
			t.Fatalf("record %s was acknowledged and is not there (%+v)", id, report)
		}
	}
	if report.Segments < 3 || report.Records < uint64(len(acknowledged)) {
		t.Errorf("%d acknowledged, report %+v", len(acknowledged), report)
	}
}

// childDiskFull appends up to a limit on the size of files, then with room
// again.
func childDiskFull(dir string) error {
	signal.Ignore(syscall.SIGXFSZ) // writes fail with EFBIG instead
	l, err := Open(Config{Dir: dir})
	if err != nil {
		return err
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 20_000, Max: old.Max}); err != nil {
		return err
	}
	var callers sync.WaitGroup
	var mu sync.Mutex
	acknowledged := 0
	var failures []error
	for range 8 {
		callers.Go(func() {
			for {
				err := l.Append(context.Background(), sample(0))
				mu.Lock()
				if err != nil {
					failures = append(failures, err)
					mu.Unlock()
					return
				}
				acknowledged++
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	for _, err := range append(failures, l.Append(context.Background(), sample(0)), l.Err()) {
		if !errors.Is(err, ErrBroken) || !errors.Is(err, syscall.EFBIG) {
			return fmt.Errorf("unclear: %w", err)
		}
	}
	if head, _ := l.Head(); head != uint64(acknowledged) {
		return fmt.Errorf("head is %d, %d records were acknowledged", head, acknowledged)
	}
	<-l.Broken()
	for range 2 {
		if err := l.Reopen(); !errors.Is(err, syscall.EFBIG) {
			return fmt.Errorf("reopened without room: %w", err)
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if err := l.Append(context.Background(), sample(0)); !errors.Is(err, ErrBroken) {
		return fmt.Errorf("broken, and mended by itself: %w", err)
	}
	if err := errors.Join(l.Reopen(), l.Append(context.Background(), sample(0))); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	fmt.Println(acknowledged)
	return l.Close()
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, err := childCommand(t, "disk full", dir).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var acknowledged uint64
	if _, err := fmt.Sscan(string(out), &acknowledged); err != nil {
		t.Fatalf("child said %q", out)
	}
	report, err := VerifyDir(dir, VerifyOptions{})
	// Up to eight that were under way, the record of the outage, and one more.
	late := report.Records - acknowledged - 2
	if err != nil || late < 1 || late > 8 || report.Outages != 1 || report.Repairs != 0 {
		t.Errorf("%d acknowledged: %+v, %v", acknowledged, report, err)
	}
	if text := readLog(t, dir); !strings.Contains(text, fmt.Sprintf(`"records":%d}`, late)) || !strings.Contains(text, "file too large") {
		t.Errorf("the outage is not told of: %s", text)
	}
}

func childOpens(dir string) error {
	l, err := Open(Config{Dir: dir})
	if err != nil {
		return err
	}
	return l.Close()
}

func TestLocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, Config{Dir: dir})
	if _, err := Open(Config{Dir: dir}); !errors.Is(err, ErrLocked) {
		t.Errorf("in this process: %v", err)
	}
	if out, err := childCommand(t, "open", dir).Output(); err == nil || !strings.Contains(string(out), ErrLocked.Error()) {
		t.Errorf("in another process: %v, %s", err, out)
	}
	closeLog(t, l)
	if out, err := childCommand(t, "open", dir).Output(); err != nil {
		t.Errorf("after Close: %v, %s", err, out)
	}
}

func openLog(t testing.TB, cfg Config) *Log {
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLog(t, l) })
	return l
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil && !errors.Is(err, errMoved) && !errors.Is(err, os.ErrExist) { // what a test has removed, or put in its place
		t.Fatal(err)
	}
}

// readLog returns the text of all segments.
func readLog(t testing.TB, dir string) string {
	t.Helper()
	segments, err := listSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, s := range segments {
		b, err := os.ReadFile(s.path())
		if err != nil {
			t.Fatal(err)
		}
		text.Write(b)
	}
	return text.String()
}

// appendN appends n records one after the other.
func appendN(t testing.TB, l *Log, n int) {
	t.Helper()
	for i := range n {
		if err := l.Append(context.Background(), sample(i)); err != nil {
			t.Fatal(err)
		}
	}
}
