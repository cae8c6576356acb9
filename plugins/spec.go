package plugins

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cmkd/backends"
)

// Spec says how to run one plugin on one token.
type Spec struct {
	// Name stands in the log, in errors and in [Status], such as
	// "main/symmetric".
	Name string
	// Path is the absolute path of the plugin's executable.
	Path string
	// SHA256 is the checksum that the executable must have, 32 bytes. nil: any.
	SHA256 []byte
	// Env is the environment of the process, beside a plain PATH: nothing of
	// the daemon's own environment reaches it.
	Env map[string]string
	// Config is what the plugin opens.
	Config Config
	// Dir is where the process's sockets are made, a directory that only the
	// daemon may enter. It is created if it is missing; its path has at most
	// 69 bytes, so that a socket's has at most 107 (unix(7)).
	Dir string
	// Spare takes the place of Dir while no folder can be made there: its disk is
	// full, or read-only. It is created when it is needed. "": none does.
	Spare string
	// Logger takes the log of the plugin, which it should name. nil:
	// slog.Default() with the Name.
	Logger *slog.Logger

	// StartTimeout bounds starting the process and opening the token.
	// 0: 30 s.
	StartTimeout time.Duration
	// HeartbeatInterval is how often a process is asked for its health, and
	// HeartbeatTimeout how long it may take to answer before it is replaced.
	// 0: 500 ms and 2.5 s.
	HeartbeatInterval time.Duration
	HeartbeatTimeout  time.Duration
	// DrainTimeout is how long calls may go on in a process that is replaced
	// by Reload. 0: 10 s.
	DrainTimeout time.Duration
	// WaitTimeout is how long a call waits for a process to come back, if its
	// context does not end earlier. 0: 30 s, as long as a start may take. With
	// thousands of keys, and others creating more, SoftHSM2 takes 12 s.
	WaitTimeout time.Duration
	// AwayAfter is how long there may be no process with the token before that
	// counts as lasting: calls are answered [backends.Away] then, and until then
	// [backends.Lost], which callers may repeat. 0: 30 s.
	AwayAfter time.Duration
	// Token is shared by the Hosts that serve one token. nil: no other Host does.
	Token *Token
	// MaxGrowth is how many bytes of memory a process may take beyond what it
	// had when its token was open. Then another takes its place, as with
	// Reload and without an effect on calls. 0: 256 MiB.
	MaxGrowth uint64
	// Accept says whether a process may serve, by what it announces once its token
	// is open. With an error the process ends, and has not started: an executable
	// may have become another program since the last one was started from it. nil:
	// any may.
	Accept func(*backends.InfoAnswer) error
	// Compare says whether the token of a process that Accept takes holds the keys that it
	// should; calls are made on that process. With an error the process ends, has not
	// started, and the phase is [Refused]. nil: the token is not compared.
	Compare func(ctx context.Context, info *backends.InfoAnswer, calls Calls) error
}

// maxDir leaves room for go-plugin's directory and socket, whose names have up
// to 38 bytes with their random parts.
const maxDir = 69

// check fills in the defaults and refuses what can never work.
func (s *Spec) check() error {
	if s.Token == nil {
		s.Token = new(Token)
	}
	if s.Logger == nil {
		s.Logger = slog.Default().With("plugin", s.Name)
	}
	s.Config = s.Config.withDefaults()
	for d, v := range map[*time.Duration]time.Duration{
		&s.StartTimeout:      30 * time.Second,
		&s.HeartbeatInterval: 500 * time.Millisecond,
		&s.HeartbeatTimeout:  2500 * time.Millisecond,
		&s.DrainTimeout:      10 * time.Second,
		&s.WaitTimeout:       30 * time.Second,
		&s.AwayAfter:         30 * time.Second,
	} {
		if *d <= 0 {
			*d = v
		}
	}
	if s.MaxGrowth == 0 {
		s.MaxGrowth = 256 << 20
	}
	switch {
	case s.Name == "":
		return errors.New("a plugin without a name")
	case !filepath.IsAbs(s.Path):
		return fmt.Errorf("plugin %s: the path %q of the executable is not absolute", s.Name, s.Path)
	case s.SHA256 != nil && len(s.SHA256) != sha256.Size:
		return fmt.Errorf("plugin %s: a SHA-256 checksum has %d bytes, not %d", s.Name, sha256.Size, len(s.SHA256))
	}
	if err := checkDir(s.Dir); err != nil {
		return fmt.Errorf("plugin %s: directory for sockets: %w", s.Name, err)
	}
	return nil
}

// checkDir makes sure that dir is the caller's and nobody else's.
func checkDir(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("%q is not absolute", dir)
	}
	if len(dir) > maxDir {
		return fmt.Errorf("%s has %d bytes, at most %d leave room for a socket's name", dir, len(dir), maxDir)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return checkOwn(dir)
}

// checkOwn refuses a dir that is not the caller's, or that others may enter.
func checkOwn(dir string) error {
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner := -1
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		owner = int(st.Uid)
	}
	switch {
	case !fi.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	case owner != os.Geteuid():
		return fmt.Errorf("%s belongs to uid %d, not to uid %d", dir, owner, os.Geteuid())
	case fi.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s has mode %#o: others may enter it; it must be 0700", dir, fi.Mode().Perm())
	}
	return nil
}

// sockets is where the next process has its sockets: in Dir, or in Spare.
func (s *Spec) sockets() string {
	if s.Spare == "" {
		return s.Dir
	}
	trial, err := os.MkdirTemp(s.Dir, folderPrefix)
	if err == nil {
		_ = os.Remove(trial) // it is as good as a leftover
		return s.Dir
	}
	if sparing := checkDir(s.Spare); sparing != nil {
		s.Logger.Warn("no room left for the sockets of a plugin", "error", err, "spare", sparing)
		return s.Dir
	}
	return s.Spare
}

// folderPrefix begins what go-plugin calls the folders of processes in [Spec.Dir] and
// [Spec.Spare].
const folderPrefix = "plugin-dir"

// RemoveLeftovers removes from dir, which is [Spec.Dir] or [Spec.Spare], what processes have left
// behind whose daemon was killed. No Host may be using dir. It fails for a dir that is not the
// caller's alone.
func RemoveLeftovers(dir string) error {
	// A spare one is where everybody may put a link to something else.
	if err := checkOwn(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	errs := []error{err}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), folderPrefix) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// runtimeSettings are of the Go runtime in a plugin (package runtime).
const runtimeSettings = "asyncpreemptoff=1,gcshrinkstackoff=1"

// environ is Env as exec wants it. With asyncpreemptoff the Go runtime sends its threads no
// signals: the kernel leaves the registers of a thread, with what was copied last,
// on the stack of its signals, where they stay until the next one. With gcshrinkstackoff a
// worker's stack stays as large as it was made: see growStack.
func (s *Spec) environ() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GODEBUG=" + runtimeSettings}
	for k, v := range s.Env {
		if k == "GODEBUG" { // of settings with one name the last one counts
			v += "," + runtimeSettings
		}
		env = append(env, k+"="+v)
	}
	return env
}
