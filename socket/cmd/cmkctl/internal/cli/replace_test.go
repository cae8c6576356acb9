package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/clitest"
)

// statusOf is the exit status of an error.
func statusOf(err error) int {
	if exit, ok := errors.AsType[*ExitError](err); ok {
		return exit.Status
	}
	return ExitFailed
}

// replace puts what content writes in the place of the file at path.
func replace(path string, content func(io.Writer) error) error {
	in, err := OpenInput(&cobra.Command{}, []string{path})
	if err != nil {
		return err
	}
	defer in.Close()
	o, err := openOutput(path)
	if err != nil {
		return err
	}
	defer o.Close()
	if err := o.Replaces(in); err != nil {
		return err
	}
	return o.Write(context.Background(), content)
}

func TestReplace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, link := filepath.Join(dir, "f"), filepath.Join(dir, "link")
	clitest.MustWrite(t, path)
	clitest.Must(t, os.Chmod(path, 0o640), os.Symlink("f", link), replace(link, writes(clitest.Today)))
	clitest.Holds(t, path, clitest.Today)
	if info, err := os.Lstat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	clitest.Names(t, dir, "f", "link")
}

// TestReplaceOnlyTheInput has somebody else change what is at the path before the new
// content is complete: theirs stays.
func TestReplaceOnlyTheInput(t *testing.T) {
	t.Parallel()
	const theirs = "somebody else's"
	for name, tt := range map[string]struct {
		meanwhile func(path string) error
		names     []string
	}{
		"replaced": {func(path string) error {
			return errors.Join(os.WriteFile(path+".new", []byte(theirs), 0o600), os.Rename(path+".new", path))
		}, []string{"f"}},
		"written": {func(path string) error { return os.WriteFile(path, []byte(theirs), 0o600) }, []string{"f"}},
		"removed": {os.Remove, nil},
		"a folder": {func(path string) error {
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
		}, []string{"f"}},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		clitest.MustWrite(t, path)
		err := replace(path, func(w io.Writer) error {
			return errors.Join(writes(clitest.Today)(w), tt.meanwhile(path))
		})
		if statusOf(err) != ExitState {
			t.Errorf("%s: %v", name, err)
		}
		clitest.Names(t, dir, tt.names...)
		if text, err := os.ReadFile(path); err == nil && string(text) != theirs {
			t.Errorf("%s: it holds %q", name, text)
		}
	}
}

// TestReplaceLooksBehindItself has another file come between the last look at the target and
// the exchange: it goes back.
func TestReplaceLooksBehindItself(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, theirs := filepath.Join(dir, "f"), filepath.Join(dir, "theirs")
	clitest.MustWrite(t, path)
	was, err := os.Lstat(path)
	clitest.Must(t, err)
	clitest.Must(t, os.WriteFile(theirs, []byte(clitest.Today), 0o600), swap(path, theirs))
	o := &Output{path: path, target: path, replaced: was}
	clitest.Must(t, os.Remove(theirs), os.WriteFile(theirs, nil, 0o600))
	if err := o.takePlace(theirs); statusOf(err) != ExitState {
		t.Errorf("error %v", err)
	}
	clitest.Holds(t, path, clitest.Today)
	clitest.Names(t, dir, "f")
	clitest.Must(t, os.Remove(path), os.WriteFile(theirs, nil, 0o600))
	if err := o.takePlace(theirs); statusOf(err) != ExitState {
		t.Errorf("error %v", err)
	}
	clitest.Names(t, dir)
}

// TestReplaceRefuses: what cannot be replaced in one step is refused before any content is
// made, and not written to.
func TestReplaceRefuses(t *testing.T) {
	t.Parallel()
	refused := func(path, name string) {
		t.Helper()
		begun := false
		err := replace(path, func(io.Writer) error { begun = true; return nil })
		if statusOf(err) != ExitInput || begun {
			t.Errorf("%s: %v, begun %v", name, err, begun)
		}
	}
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	clitest.MustWrite(t, a)
	clitest.Must(t, os.Link(a, b))
	refused(a, "hard links")
	refused("/dev/null", "a device")
	clitest.Holds(t, b, clitest.Yesterday)
	clitest.Names(t, dir, "a", "b")
	if os.Getuid() != 0 {
		return // only root can make what follows
	}
	const nobody = 65534
	asNobody := func(path, name string) {
		t.Helper()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = asUser(nobody, func() error { refused(path, name); return nil })
		}()
		<-done
	}
	clitest.Must(t, os.Remove(b), os.Chmod(a, 0o666), os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o777))
	asNobody(a, "another owner")
	clitest.Must(t, os.Chmod(dir, 0o755))
	asNobody(a, "a folder that may not be written")
	clitest.Holds(t, a, clitest.Yesterday)
	clitest.Names(t, dir, "a")
}
