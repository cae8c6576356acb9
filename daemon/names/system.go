package names

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// Config is how the system is asked.
type Config struct {
	// Getent is the path of getent(1), which asks what nsswitch.conf(5) names.
	Getent string
	// Timeout bounds one question.
	Timeout time.Duration
	// Cache is how long a name is believed.
	Cache time.Duration
	// Memory is the file of the IDs that have had a name. Keep: it is written.
	Memory string
	Keep   bool
	Log    *slog.Logger
}

// System is the database of the system: [Files] first, which never makes anybody wait,
// then getent(1) for those that are not there.
type System struct {
	Files

	cfg     Config
	memory  *memory
	flights singleflight.Group
	turns   chan struct{} // questions at one time

	mu     sync.Mutex
	told   map[string]told // by what was asked for; guarded by mu
	failed error           // the last failure; guarded by mu
	at     time.Time       // when that was; guarded by mu
	logged time.Time       // when one was logged; guarded by mu
}

// told is what was said last of an ID or a name.
type told struct {
	user  User // of a group its name and, as UID, its gid
	err   error
	until time.Time
}

const (
	// maxQuestions bounds the processes of getent at one time.
	maxQuestions = 8
	// maxTold bounds the cache.
	maxTold = 1 << 16
	// failedFor is how long a failure, or that there is no name, is believed: nobody may
	// have a process started with every call.
	failedFor = time.Second
	// troubleFor is how long a failure is told, and the least between two in the log.
	troubleFor = time.Minute
)

// NewSystem reads what is remembered.
func NewSystem(cfg Config) (*System, error) {
	m, err := openMemory(cfg.Memory, cfg.Keep)
	if err != nil {
		return nil, err
	}
	return &System{cfg: cfg, memory: m, turns: make(chan struct{}, maxQuestions), told: map[string]told{}}, nil
}

// User implements [Database]. A uid that has had a name and has none now is [ErrSilent].
func (s *System) User(uid uint32) (User, error) {
	if u, err := s.Files.User(uid); !errors.Is(err, ErrUnknown) {
		return u, err
	}
	if t, ok := s.cached(uidKey(uid)); ok {
		return t.user, t.err
	}
	u, err := s.askUser(uidKey(uid), formatID(uid), func(u User) bool { return u.UID == uid })
	if was := s.memory.user(uid); errors.Is(err, ErrUnknown) && was != "" {
		err = fmt.Errorf("%w of uid %d, which was %s", ErrSilent, uid, was)
	}
	s.keep(uidKey(uid), told{user: u, err: err})
	return u, err
}

// The keys of what is told.
func uidKey(uid uint32) string { return "uid " + formatID(uid) }
func gidKey(gid uint32) string { return "gid " + formatID(gid) }

// askUser asks for an entry of passwd that is the one that was meant: a name such as "+1"
// is a number to getent.
func (s *System) askUser(flight, key string, meant func(User) bool) (User, error) {
	found, err, _ := s.flights.Do(flight, func() (any, error) {
		lines, err := s.ask("passwd", "--", key)
		if err != nil {
			return User{}, err
		}
		for _, line := range lines {
			f := strings.Split(line, ":")
			if len(f) < 4 {
				continue
			}
			uid, err := parseID(f[2])
			gid, err2 := parseID(f[3])
			if u := (User{f[0], uid, gid}); err == nil && err2 == nil && meant(u) {
				s.noted(s.memory.learnUser(uid, u.Name))
				return u, nil
			}
		}
		return User{}, fmt.Errorf("%w: user %s", ErrUnknown, key)
	})
	return found.(User), err
}

// Groups implements [Database]. All that is not known is asked for at once.
func (s *System) Groups(gids []uint32) ([]string, error) {
	names, err := s.Files.Groups(gids)
	if err != nil {
		return nil, err
	}
	var missing []uint32
	for i, gid := range gids {
		if names[i] != "" {
			continue
		}
		if t, ok := s.cached(gidKey(gid)); !ok {
			missing = append(missing, gid)
		} else if t.err != nil {
			return nil, t.err
		} else {
			names[i] = t.user.Name
		}
	}
	if len(missing) == 0 {
		return names, nil
	}
	found, err := s.askGroups(missing)
	if err != nil {
		return nil, err
	}
	for i, gid := range gids {
		if names[i] == "" {
			names[i] = found[gid]
		}
	}
	return names, nil
}

// askGroups asks for the names of gids.
func (s *System) askGroups(gids []uint32) (map[uint32]string, error) {
	keys := []string{"--"}
	for _, gid := range gids {
		keys = append(keys, formatID(gid))
	}
	found, err, _ := s.flights.Do("gids "+strings.Join(keys, " "), func() (any, error) {
		found := map[uint32]string{}
		lines, err := s.ask("group", keys...)
		if err != nil && !errors.Is(err, ErrUnknown) { // of one at least
			return found, err
		}
		for _, line := range lines {
			if name, gid, ok := parseGroup(line); ok && slices.Contains(gids, gid) {
				found[gid] = name
				s.noted(s.memory.learnGroup(gid, name))
			}
		}
		return found, nil
	})
	names := found.(map[uint32]string)
	for _, gid := range gids {
		if was := s.memory.group(gid); err == nil && names[gid] == "" && was != "" {
			err = fmt.Errorf("%w of gid %d, which was %s", ErrSilent, gid, was)
		}
	}
	for _, gid := range gids {
		s.keep(gidKey(gid), told{user: User{Name: names[gid], UID: gid}, err: err})
	}
	return names, err
}

func parseGroup(line string) (name string, gid uint32, ok bool) {
	f := strings.Split(line, ":")
	if len(f) < 3 {
		return "", 0, false
	}
	gid, err := parseID(f[2])
	return f[0], gid, err == nil && f[0] != ""
}

// UserNamed implements [Database]. One who has been seen and is not known now is as before.
func (s *System) UserNamed(name string) (User, error) {
	if u, err := s.Files.UserNamed(name); !errors.Is(err, ErrUnknown) {
		return u, err
	}
	if t, ok := s.cached("user " + name); ok {
		return t.user, t.err
	}
	u, err := s.askUser("user "+name, name, func(u User) bool { return u.Name == name })
	if _, seen := s.memory.named(name, false); errors.Is(err, ErrUnknown) && seen {
		err = fmt.Errorf("%w of %s, who has been seen", ErrSilent, name)
	}
	s.keep("user "+name, told{user: u, err: err})
	return u, err
}

// GroupNamed implements [Database].
func (s *System) GroupNamed(name string) (uint32, error) {
	if gid, err := s.Files.GroupNamed(name); !errors.Is(err, ErrUnknown) {
		return gid, err
	}
	if t, ok := s.cached("group " + name); ok {
		return t.user.UID, t.err
	}
	t := told{}
	var lines []string
	lines, t.err = s.ask("group", "--", name)
	for _, line := range lines {
		if found, gid, ok := parseGroup(line); ok && found == name {
			t.user = User{Name: name, UID: gid}
			s.noted(s.memory.learnGroup(gid, name))
		}
	}
	if t.err == nil && t.user.Name == "" {
		t.err = fmt.Errorf("%w: group %s", ErrUnknown, name)
	}
	if _, seen := s.memory.named(name, true); errors.Is(t.err, ErrUnknown) && seen {
		t.err = fmt.Errorf("%w of group %s, which has been seen", ErrSilent, name)
	}
	s.keep("group "+name, t)
	return t.user.UID, t.err
}

// GroupsOf implements [Database].
func (s *System) GroupsOf(u User) ([]uint32, error) {
	lines, err := s.ask("initgroups", "--", u.Name)
	if err != nil {
		return nil, err
	}
	gids := []uint32{u.GID}
	for _, line := range lines {
		for _, text := range strings.Fields(line)[1:] {
			if gid, err := parseID(text); err == nil && !slices.Contains(gids, gid) {
				gids = append(gids, gid)
			}
		}
	}
	return gids, nil
}

// Users implements [Database]: those that the system lists, and those that have been seen.
// SSSD lists nobody unless it is told to.
func (s *System) Users() ([]string, error) {
	list, err := s.Files.Users()
	if err != nil {
		return nil, err
	}
	if lines, err := s.ask("passwd"); err == nil {
		for _, line := range lines {
			name, _, _ := strings.Cut(line, ":")
			list = append(list, name)
		}
	}
	list = append(list, s.memory.users()...)
	slices.Sort(list)
	return slices.Compact(list), nil
}

// Near implements [Database].
func (s *System) Near(uid uint32, gids []uint32) bool {
	if _, err := s.Files.User(uid); err != nil {
		if _, ok := s.cached(uidKey(uid)); !ok {
			return false
		}
	}
	names, err := s.Files.Groups(gids)
	if err != nil {
		return false
	}
	for i, gid := range gids {
		if _, ok := s.cached(gidKey(gid)); names[i] == "" && !ok {
			return false
		}
	}
	return true
}

func (s *System) cached(key string) (told, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.told[key]
	return t, ok && time.Now().Before(t.until)
}

func (s *System) keep(key string, t told) {
	t.until = time.Now().Add(s.cfg.Cache)
	if t.err != nil || t.user.Name == "" {
		t.until = time.Now().Add(failedFor)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.err != nil && !errors.Is(t.err, ErrUnknown) {
		s.failed, s.at = t.err, time.Now()
		if time.Since(s.logged) > troubleFor {
			s.logged = s.at
			s.cfg.Log.LogAttrs(context.Background(), slog.LevelError, "callers are refused, their names cannot be told", slog.Any("error", t.err))
		}
	}
	if len(s.told) >= maxTold {
		clear(s.told)
	}
	s.told[key] = t
}

// Trouble implements [Database].
func (s *System) Trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.at) > troubleFor {
		return nil
	}
	return s.failed
}

// noted logs what could not be remembered for the next start.
func (s *System) noted(err error) {
	if err != nil {
		s.cfg.Log.LogAttrs(context.Background(), slog.LevelError, "a name is remembered until the daemon ends only", slog.Any("error", err))
	}
}

// maxAnswer bounds what getent says, in bytes.
const maxAnswer = 8 << 20

// ask runs getent and returns its lines. With [ErrUnknown], which getent says of an entry
// that is not there and of a source that does not answer, come those that were found.
//
// Several callers may wait for one answer, so it does not end with any of them.
func (s *System) ask(database string, args ...string) ([]string, error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), s.cfg.Timeout, fmt.Errorf("getent %s took longer than %s", database, s.cfg.Timeout))
	defer cancel()
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrSilent, context.Cause(ctx))
	}
	out := &bounded{}
	cmd := exec.CommandContext(ctx, s.cfg.Getent, append([]string{database}, args...)...)
	cmd.Stdout, cmd.Env, cmd.WaitDelay = out, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}, time.Second
	err := cmd.Run()
	lines := strings.FieldsFunc(out.text.String(), func(r rune) bool { return r == '\n' })
	const notFound = 2 // getent(1), EXIT STATUS
	exit, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return lines, nil
	case context.Cause(ctx) != nil:
		return nil, fmt.Errorf("%w: %w", ErrSilent, context.Cause(ctx))
	case exited && exit.ExitCode() == notFound:
		return lines, fmt.Errorf("%w: getent %s %s", ErrUnknown, database, strings.Join(args[min(1, len(args)):], " "))
	default:
		return nil, fmt.Errorf("%w: getent %s: %w", ErrSilent, database, err)
	}
}

// bounded is a buffer that takes no more than maxAnswer.
type bounded struct{ text bytes.Buffer }

// Write implements [io.Writer].
func (b *bounded) Write(p []byte) (int, error) {
	if b.text.Len()+len(p) > maxAnswer {
		return 0, errors.New("the answer is too long")
	}
	return b.text.Write(p)
}
