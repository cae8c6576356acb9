package names

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// memory is which IDs have had a name. Whoever asks SSSD by getent(1) is told the same of
// an ID without a name and of one whose name SSSD cannot get at, so an ID with a name must
// not lose it while somebody makes SSSD silent: a policy that denies the name would be
// passed by. It outlives the daemon in a file.
type memory struct {
	path string // "": none

	mu    sync.Mutex
	names remembered // guarded by mu
}

// remembered are names by ID: the file's content, JSON.
type remembered struct {
	Users  map[uint32]string `json:"users"`
	Groups map[uint32]string `json:"groups"`
}

// openMemory reads the file, if it is there. keep: what is learnt is written to it.
func openMemory(path string, keep bool) (*memory, error) {
	m := &memory{names: remembered{map[uint32]string{}, map[uint32]string{}}}
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &m.names)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading which users have had a name: %w; without %s, nobody has", err, path)
	}
	if keep {
		m.path = path
	}
	return m, nil
}

func (m *memory) user(uid uint32) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.names.Users[uid]
}

func (m *memory) group(gid uint32) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.names.Groups[gid]
}

// named reports whether a user, or a group, of the name is remembered.
func (m *memory) named(name string, group bool) (id uint32, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := m.names.Users
	if group {
		list = m.names.Groups
	}
	for id, n := range list {
		if n == name {
			return id, true
		}
	}
	return 0, false
}

func (m *memory) users() (list []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range m.names.Users {
		list = append(list, name)
	}
	return list
}

// learnUser and learnGroup remember a name. What cannot be written is remembered until
// the daemon ends.
func (m *memory) learnUser(uid uint32, name string) error { return m.learn(m.names.Users, uid, name) }

func (m *memory) learnGroup(gid uint32, name string) error {
	return m.learn(m.names.Groups, gid, name)
}

func (m *memory) learn(list map[uint32]string, id uint32, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if list[id] == name {
		return nil
	}
	list[id] = name
	if m.path == "" {
		return nil
	}
	text, err := json.Marshal(&m.names)
	if err != nil {
		return err
	}
	fresh := m.path + ".new"
	_ = os.Remove(fresh) // of a write that failed, or a link that would be followed
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = f.Write(text)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = os.Rename(fresh, m.path)
	}
	if err != nil {
		return fmt.Errorf("remembering that %d is %s: %w", id, name, err)
	}
	return nil
}
