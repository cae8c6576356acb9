// Package extrausers is a source of users that no file of the machine has, for tests: a
// real one, libnss-extrausers, which the system's getent(1) asks in a mount namespace of
// its own.
package extrausers

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Source has the users lea (uid 62001, in the groups team, 62101, and others, 62102) and
// two with names that are numbers to others.
type Source struct {
	Dir string
	// Getent is the path of a getent that asks it.
	Getent string
}

const answering = "passwd: files extrausers\ngroup: files extrausers\n"

// New makes a source that answers.
func New(t testing.TB) *Source {
	t.Helper()
	dir := t.TempDir()
	s := &Source{Dir: dir, Getent: filepath.Join(dir, "getent")}
	s.Answer(t)
	s.write(t, "passwd", "lea:x:62001:62101:Lea:/home/lea:/bin/sh\n62003:x:62004:62101:a number:/:/bin/sh\n+0:x:62005:62101:no root:/:/bin/sh\n")
	s.write(t, "group", "team:x:62101:\nothers:x:62102:lea\n")
	s.write(t, "shadow", "")
	sudo := ""
	if os.Geteuid() != 0 {
		sudo = "sudo -n "
	}
	s.write(t, "getent", `#!/bin/sh
echo "$*" >>`+dir+`/asked
test -e `+dir+`/hang && exec sleep 60
exec `+sudo+`unshare --mount --propagation private sh -c '
	mount --bind `+dir+`/nsswitch.conf /etc/nsswitch.conf && mount -t tmpfs tmpfs /var/lib/extrausers &&
	cp `+dir+`/passwd `+dir+`/group `+dir+`/shadow /var/lib/extrausers/ || exit 9
	exec /usr/bin/getent "$@"' getent "$@"
`)
	if err := os.Chmod(s.Getent, 0o755); err != nil { //nolint:gosec // it is a program
		t.Fatal(err)
	}
	return s
}

func (s *Source) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(text), 0o644); err != nil { //nolint:gosec // everybody reads such files
		t.Fatal(err)
	}
}

// Answer has the source answer.
func (s *Source) Answer(t testing.TB) { s.write(t, "nsswitch.conf", answering) }

// Silence has it not answer: getent says the same as of a user who is not there.
func (s *Source) Silence(t testing.TB) { s.write(t, "nsswitch.conf", "passwd: files\ngroup: files\n") }

// Hang has getent not end.
func (s *Source) Hang(t testing.TB) { s.write(t, "hang", "") }

// Asked counts the questions so far.
func (s *Source) Asked(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.Dir, "asked"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Count(string(text), "\n")
}
