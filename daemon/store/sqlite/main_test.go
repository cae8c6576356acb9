package sqlite

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
)

// childEnv makes the test binary play one of the children below, each of
// which gets a store's path as its argument.
const childEnv = "CMKD_STORE_TEST_CHILD"

var children = map[string]func(path string) error{
	"commit":    childCommits,
	"disk full": childDiskFull,
	"open full": childOpensFull,
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

func childCommand(t *testing.T, name, path string) *exec.Cmd {
	t.Helper()
	// The path of the test binary lies in a directory of mode 0700; the link
	// works for every user.
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", path)
	cmd.Env = append(os.Environ(), childEnv+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}

// childCommits commits pairs of a key and its version forever and prints the
// number of each pair once it is acknowledged.
func childCommits(path string) error {
	s, err := Open(context.Background(), path, Options{})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		err := s.Update(context.Background(), func(tx *store.Tx) error {
			return errors.Join(tx.PutKey(storetest.Key(i)), tx.PutVersion(storetest.Version(i)),
				tx.PutSetting(&store.Setting{Name: "last", Value: fmt.Sprint(i)}))
		})
		if err != nil {
			return err
		}
		fmt.Println(i)
	}
}

// TestKill kills a process in the middle of its commits: what was
// acknowledged is there, nothing is half there.
func TestKill(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	last := -1
	for round := range 5 {
		cmd := childCommand(t, "commit", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if _, err := fmt.Sscan(lines.Text(), &last); err != nil {
				t.Fatalf("child said %q", lines.Text())
			}
			// The kill is sent while the child goes on committing.
			if last == 400+round*37 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child was not killed")
		}

		s := open(t, path)
		v := s.View()
		setting, ok := v.Setting("last")
		if !ok {
			t.Fatal("nothing was committed")
		}
		var stored int
		if _, err := fmt.Sscan(setting.Value, &stored); err != nil {
			t.Fatal(err)
		}
		if stored < last {
			t.Fatalf("commit %d was acknowledged, the last one found is %d", last, stored)
		}
		keys := 0
		for k := range v.AllKeys() {
			if _, ok := v.CurrentVersion(k.ID); !ok {
				t.Fatalf("key %s has no version", k.ID)
			}
			keys++
		}
		// Later rounds write the same rows again, up to where they are killed.
		if keys <= last || stored >= keys {
			t.Fatalf("%d keys, last commit %d", keys, stored)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// childDiskFull fills the store up to a limit on the size of files.
func childDiskFull(path string) error {
	signal.Ignore(syscall.SIGXFSZ) // writes fail with EFBIG instead
	s, err := Open(context.Background(), path, Options{})
	if err != nil {
		return err
	}
	fill := func(i int) error {
		k := storetest.Key(i)
		k.Policy = strings.Repeat("p", 32<<10)
		return s.Update(context.Background(), func(tx *store.Tx) error {
			return errors.Join(tx.PutKey(k), tx.PutVersion(storetest.Version(i)))
		})
	}
	if err := fill(0); err != nil {
		return err
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 20, Max: old.Max}); err != nil {
		return err
	}
	full := 1
	for ; ; full++ {
		before := s.View()
		err := fill(full)
		if err == nil {
			continue
		}
		if !strings.HasPrefix(err.Error(), "writing to the store: ") || !errors.Is(err, store.ErrUnwritable) || !errors.Is(s.Err(), store.ErrUnwritable) {
			return fmt.Errorf("unclear: %w", err)
		}
		if s.View() != before {
			return errors.New("the failed commit changed the snapshot")
		}
		break
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if err := s.Probe(context.Background()); err != nil || s.Err() != nil {
		return fmt.Errorf("with room again: %w, %w", err, s.Err())
	}
	if err := fill(full + 1); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	fmt.Println(full)
	return nil // without Close, as a crash would leave it
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	out, err := childCommand(t, "disk full", path).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var full int
	if _, err := fmt.Sscan(string(out), &full); err != nil {
		t.Fatalf("child said %q", out)
	}
	s := open(t, path)
	for i := range full + 2 {
		_, key := s.View().Key(storetest.Key(i).Region, storetest.Key(i).ID)
		_, version := s.View().CurrentVersion(storetest.Key(i).ID)
		if want := i != full; key != want || version != want {
			t.Errorf("key %d: key %t, version %t, want %t", i, key, version, want)
		}
	}
}

// childOpensFull opens a store where there is no room for SQLite's own files,
// reads it, and writes to it once there is.
func childOpensFull(path string) error {
	signal.Ignore(syscall.SIGXFSZ) // writes fail with EFBIG instead
	ctx := context.Background()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 4 << 10, Max: old.Max}); err != nil {
		return err
	}
	restored := 0
	engine, err := NewEngine(ctx, path, Options{Restored: func() { restored++ }})
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, engine)
	if err != nil {
		return err
	}
	write := func(value string) error {
		return s.Update(ctx, func(tx *store.Tx) error { return tx.PutSetting(&store.Setting{Name: "after", Value: value}) })
	}
	_, read := s.View().Key(storetest.Key(1).Region, storetest.Key(1).ID)
	if err := os.Remove(path + "-wal"); err != nil { // where not even that can be made
		return err
	}
	if err := write("full"); !read || !errors.Is(err, store.ErrUnwritable) || !errors.Is(s.Err(), store.ErrUnwritable) || s.Probe(ctx) == nil {
		return fmt.Errorf("full: read %t, %w, %w", read, err, s.Err())
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if err := s.Probe(ctx); err != nil || s.Err() != nil || engine.makeshift || restored > 0 {
		return fmt.Errorf("with room again: %w, %w, %d times restored files that nobody has removed", err, s.Err(), restored)
	}
	if err := write("room"); err != nil {
		return err
	}
	other, err := openDatabase(ctx, path, false) // a backup, say
	if err != nil {
		return fmt.Errorf("another process: %w", err)
	}
	return errors.Join(other.Close(), s.Close())
}

// TestOpenFull: a store opens on a full disk, to be read.
func TestOpenFull(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	storetest.Update(t, s, storetest.Sample)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := childCommand(t, "open full", path).Output(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if after, ok := open(t, path).View().Setting("after"); !ok || after.Value != "room" {
		t.Errorf("after: %+v", after)
	}
}

func childOpens(path string) error {
	s, err := Open(context.Background(), path, Options{})
	if err != nil {
		return err
	}
	return s.Close()
}

// TestUnwritable opens stores where an ordinary user may not write.
func TestUnwritable(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("as root, children would run as another user")
	}
	dir := t.TempDir()
	theirs := filepath.Join(dir, "theirs")
	if err := os.Mkdir(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	s := open(t, filepath.Join(theirs, "store.db"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		if err := os.Chmod(theirs, 0o555); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(theirs, "store.db"), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"new.db", "store.db"} {
		cmd := childCommand(t, "open", filepath.Join(theirs, name))
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			cmd.Dir = "/"
		}
		out, err := cmd.Output()
		if err == nil || !strings.Contains(string(out), "permission denied") ||
			!strings.Contains(string(out), "opening the store "+filepath.Join(theirs, name)) {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
}
