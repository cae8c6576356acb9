package names_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cmkd/daemon/names"
	"cmkd/testenv/extrausers"
)

// open opens the database as a daemon does that has just started.
func open(t *testing.T, s *extrausers.Source, cache time.Duration) *names.System {
	t.Helper()
	db, err := names.NewSystem(names.Config{
		Getent: s.Getent, Timeout: time.Minute, Cache: cache, Memory: filepath.Join(s.Dir, "names.json"), Keep: true, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

var lea = names.User{Name: "lea", UID: 62001, GID: 62101}

// TestSystem: users and groups of another source than the files have their names.
func TestSystem(t *testing.T) {
	t.Parallel()
	s := extrausers.New(t)
	db := open(t, s, time.Hour)
	if db.Near(62001, []uint32{62101}) {
		t.Error("a user is known before anybody was asked")
	}
	for range 3 {
		if u, err := db.User(62001); err != nil || u != lea {
			t.Errorf("uid 62001: %+v, %v", u, err)
		}
		if got, err := db.Groups([]uint32{0, 62102, 62999, 62101}); err != nil || !slices.Equal(got, []string{"root", "others", "", "team"}) {
			t.Errorf("groups: %q, %v", got, err)
		}
		if u, err := db.User(0); err != nil || u.Name != "root" {
			t.Errorf("root: %+v, %v", u, err)
		}
	}
	if n := s.Asked(t); n < 2 || n > 4 { // 62999 is asked for again after a second
		t.Errorf("%d questions", n)
	}
	if !db.Near(62001, []uint32{62101, 62102, 0}) {
		t.Error("what was told is not near")
	}
	if u, err := db.UserNamed("lea"); err != nil || u != lea {
		t.Errorf("lea: %+v, %v", u, err)
	}
	if gid, err := db.GroupNamed("others"); err != nil || gid != 62102 {
		t.Errorf("others: %d, %v", gid, err)
	}
	if gids, err := db.GroupsOf(lea); err != nil || !slices.Equal(gids, []uint32{62101, 62102}) {
		t.Errorf("her groups: %d, %v", gids, err)
	}
	if list, err := db.Users(); err != nil || !slices.Contains(list, "lea") || !slices.Contains(list, "root") {
		t.Errorf("users: %q, %v", list, err)
	}
	for name, err := range map[string]error{
		"a uid": second(db.User(62999)), "a user": second(db.UserNamed("nobody-at-all")), "a group": second(db.GroupNamed("no-group")),
		"a user by another's number": second(db.UserNamed("62001")), "a number with a sign": second(db.UserNamed("+62001")),
	} {
		if !errors.Is(err, names.ErrUnknown) {
			t.Errorf("%s that is not there: %v", name, err)
		}
	}
	if err := db.Trouble(); err != nil {
		t.Errorf("trouble: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// TestSilent: who has been seen with a name has no other one while the source is silent,
// not even after a restart.
func TestSilent(t *testing.T) {
	t.Parallel()
	s := extrausers.New(t)
	db := open(t, s, time.Nanosecond)
	if _, err := db.User(62001); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Groups([]uint32{62101}); err != nil {
		t.Fatal(err)
	}
	s.Silence(t)
	for _, db := range []*names.System{db, open(t, s, time.Hour)} {
		for what, err := range map[string]error{
			"her uid": second(db.User(62001)), "her name": second(db.UserNamed("lea")),
			"her group": second(db.Groups([]uint32{0, 62101})), "its name": second(db.GroupNamed("team")),
		} {
			if !errors.Is(err, names.ErrSilent) || errors.Is(err, names.ErrUnknown) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if u, err := db.User(62099); !errors.Is(err, names.ErrUnknown) {
			t.Errorf("who has never been seen: %+v, %v", u, err)
		}
		if u, err := db.User(0); err != nil || u.Name != "root" {
			t.Errorf("a local user: %+v, %v", u, err)
		}
		if err := db.Trouble(); err == nil || !strings.Contains(err.Error(), "62001") && !strings.Contains(err.Error(), "lea") && !strings.Contains(err.Error(), "team") {
			t.Errorf("trouble: %v", err)
		}
	}
	if list, err := db.Users(); err != nil || !slices.Contains(list, "lea") {
		t.Errorf("users: %q, %v", list, err)
	}
	s.Answer(t)
	if u, err := open(t, s, time.Hour).User(62001); err != nil || u != lea {
		t.Errorf("once it answers again: %+v, %v", u, err)
	}
}

// TestHangs: a source that hangs makes nobody wait for longer than the limit, and says
// nothing of anybody.
func TestHangs(t *testing.T) {
	t.Parallel()
	s := extrausers.New(t)
	s.Hang(t)
	for what, cfg := range map[string]names.Config{
		"hangs":            {Getent: s.Getent, Timeout: 50 * time.Millisecond},
		"cannot be run":    {Getent: filepath.Join(s.Dir, "passwd"), Timeout: time.Minute},
		"is not there":     {Getent: filepath.Join(s.Dir, "none"), Timeout: time.Minute},
		"does not know so": {Getent: "/bin/false", Timeout: time.Minute},
	} {
		cfg.Cache, cfg.Log = time.Hour, slog.New(slog.DiscardHandler)
		db, err := names.NewSystem(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if u, err := db.User(62001); !errors.Is(err, names.ErrSilent) {
			t.Errorf("getent %s: %+v, %v", what, u, err)
		}
		if got, err := db.Groups([]uint32{62101}); !errors.Is(err, names.ErrSilent) {
			t.Errorf("getent %s: groups %q, %v", what, got, err)
		}
		if u, err := db.User(0); err != nil || u.Name != "root" {
			t.Errorf("getent %s: root is %+v, %v", what, u, err)
		}
	}
}

// TestMemory: a file that is not what was written is an error rather than forgotten.
func TestMemory(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "names.json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := names.NewSystem(names.Config{Memory: path}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a torn file: %v", err)
	}
}

// TestFiles: the files of the machine.
func TestFiles(t *testing.T) {
	t.Parallel()
	db := names.Files{}
	u, err := db.UserNamed("root")
	if byID, err2 := db.User(0); err != nil || err2 != nil || u != byID || u.Name != "root" {
		t.Errorf("%+v, %v; %+v, %v", u, err, byID, err2)
	}
	if gids, err := db.GroupsOf(u); err != nil || !slices.Contains(gids, 0) {
		t.Errorf("groups of root: %d, %v", gids, err)
	}
	if got, err := db.Groups([]uint32{0, 3_999_999_999}); err != nil || fmt.Sprint(got) != "[root ]" {
		t.Errorf("%q, %v", got, err)
	}
	for _, err := range []error{second(db.User(3_999_999_999)), second(db.UserNamed("no-such-user")), second(db.GroupNamed("no-such-group"))} {
		if !errors.Is(err, names.ErrUnknown) {
			t.Error(err)
		}
	}
	if list, err := db.Users(); err != nil || !slices.Contains(list, "root") || slices.Contains(list, strconv.Itoa(0)) {
		t.Errorf("%q, %v", list, err)
	}
}
