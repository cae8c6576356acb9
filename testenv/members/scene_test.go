// Package members tests tokens with several members: they get calls, are lost, come
// back, show keys late, and are others than they should be.
package members

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/socket/operatorapi"
	"cmkd/testenv"
	"cmkd/testenv/rig"
	"cmkd/testenv/shim"
)

// member is a token behind a shim, with SoftHSM2's configuration of its own.
type member struct {
	name   string
	module *shim.Module
	*shim.Control
	conf   string
	tokens string // the folder of its token
}

// newMember makes a member of what is in a folder of tokens.
func newMember(t testing.TB, name, tokens string) *member {
	t.Helper()
	m := shim.New(t, testenv.Module(t))
	conf := filepath.Join(rig.Dir(t), "softhsm2.conf")
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", tokens)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return &member{name: name, module: m, Control: m.Control, conf: conf, tokens: tokens}
}

// table is the member in the configuration.
func (m *member) table() string {
	env := rig.Variables(append(m.module.Env, "SOFTHSM2_CONF="+m.conf))
	return fmt.Sprintf("[[token.member]]\nname = %q\nmodule = %q\n%s", m.name, m.module.Path, rig.Environment(env))
}

// used counts the calls that the module has got for work with keys.
func (m *member) used() uint64 {
	return m.Calls("C_Encrypt") + m.Calls("C_Decrypt") + m.Calls("C_Sign")
}

// awaitPause does the calls between two comparisons of a refused member, and checks that none
// of them has come to it. A comparison in between would count, so they are done once more then.
func (s *scene) awaitPause(t *testing.T, m *member, calls func()) {
	t.Helper()
	eventually(t, func() (bool, string) {
		begun, searches, used := m.Calls("C_Initialize"), m.Calls("C_FindObjectsInit"), m.used()
		if ended := s.ended(m); ended != begun {
			return false, fmt.Sprintf("of %d processes of member %s %d have ended", begun, m.name, ended)
		}
		calls()
		if m.Calls("C_Initialize") != begun {
			return false, "member " + m.name + " is compared without a pause"
		}
		if searched, after := m.Calls("C_FindObjectsInit")-searches, m.used()-used; searched+after != 0 {
			t.Errorf("member %s was asked for %d objects and used for %d calls", m.name, searched, after)
		}
		return true, ""
	})
}

// ended counts the processes of a member that have ended.
func (s *scene) ended(m *member) (n uint64) {
	for line := range strings.Lines(s.Log()) {
		if strings.Contains(line, "plugin process exited") && strings.Contains(line, fmt.Sprintf(`"token":"main/%s"`, m.name)) {
			n++
		}
	}
	return n
}

// objects are the names of the files of the objects in the token.
func (m *member) objects(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(m.tokens, "*", "*.object"))
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		files[i] = filepath.Base(f)
	}
	return slices.DeleteFunc(files, func(f string) bool { return f == "token.object" })
}

// scene is a daemon on a token with members.
type scene struct {
	*rig.Rig
	*kms.Client
	token *testenv.Token
}

// prepare makes a daemon on the token, and does not start it.
func prepare(t testing.TB, cfg rig.Config, members ...*member) *scene {
	t.Helper()
	for _, m := range members {
		cfg.Tables += m.table()
	}
	r := rig.Prepare(t, cfg)
	return &scene{Rig: r, Client: r.Client(""), token: cfg.Token}
}

// tokensOf is the folder of a fresh token.
func tokensOf(tok *testenv.Token) string { return filepath.Join(filepath.Dir(tok.ConfFile), "tokens") }

// sync makes the copy of a token what the original is, as a clone gets it late.
func sync(t *testing.T, original, clone string) {
	t.Helper()
	if err := os.RemoveAll(clone); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(clone, os.DirFS(original)); err != nil {
		t.Fatal(err)
	}
}

// add gives the clone the objects of the original, and has SoftHSM2 look for them.
func add(t *testing.T, original, clone string) {
	t.Helper()
	if err := copyObjects(original, clone); err != nil {
		t.Fatal(err)
	}
}

// replicate does so until it is stopped.
func replicate(t *testing.T, original, clone string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			if err := copyObjects(original, clone); err != nil && !errors.Is(err, fs.ErrNotExist) { // it was destroyed meanwhile
				ended <- err
				return
			}
			time.Sleep(20 * time.Millisecond) // as a set that replicates does
		}
		ended <- nil
	}()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("replicating: %v", err)
		}
	}
}

// copyObjects copies what differs. SoftHSM2 looks again if the count of changes in a file (8
// bytes, big-endian) is another.
func copyObjects(original, clone string) error {
	files, err := filepath.Glob(filepath.Join(original, "*", "*.object"))
	if err != nil {
		return err
	}
	counts := map[string]bool{}
	for _, from := range files {
		folder := filepath.Join(clone, filepath.Base(filepath.Dir(from)))
		to := filepath.Join(folder, filepath.Base(from))
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if old, err := os.ReadFile(to); filepath.Base(from) == "token.object" || err == nil && bytes.Equal(old, content) {
			continue
		}
		if err := replace(to, content); err != nil {
			return err
		}
		counts[filepath.Join(folder, "generation")] = true
	}
	for count := range counts {
		content, err := os.ReadFile(count)
		if err != nil {
			return err
		}
		binary.BigEndian.PutUint64(content, binary.BigEndian.Uint64(content)+1)
		if err := replace(count, content); err != nil {
			return err
		}
	}
	return nil
}

// replace writes a file that others read.
func replace(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// health is the status of the daemon.
func (s *scene) health(t *testing.T) operatorapi.Health {
	t.Helper()
	_, text := s.Ask(t, http.MethodGet, "/status", "")
	var h operatorapi.Health
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		t.Fatal(err)
	}
	return h
}

// states are those of the members by their names, and that of the token under "".
func (s *scene) states(t *testing.T) map[string]string {
	t.Helper()
	tokens := s.health(t).Tokens
	states := map[string]string{"": tokens[0].State}
	for _, m := range tokens[0].Members {
		states[m.Name] = m.State
	}
	return states
}

// awaitStates polls the status until the members are so.
func (s *scene) awaitStates(t *testing.T, want map[string]string) {
	t.Helper()
	eventually(t, func() (bool, string) {
		got := s.states(t)
		return maps.Equal(got, want), fmt.Sprintf("the states are %v, want %v", got, want)
	})
}

// eventually polls until done says so, which else says how it is.
func eventually(t *testing.T, done func() (bool, string)) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		ok, text := done()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatal(text)
		}
	}
}

// encrypt makes a call with the key that must be answered.
func (s *scene) encrypt(t *testing.T, id string) []byte {
	t.Helper()
	out, err := s.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: []byte("text")})
	if err != nil {
		t.Fatalf("Encrypt: %v", err)
	}
	return out.CiphertextBlob
}

// awaitUse makes calls with the key until each of the members has got one more.
func (s *scene) awaitUse(t *testing.T, id string, members ...*member) {
	t.Helper()
	before := map[*member]uint64{}
	for _, m := range members {
		before[m] = m.used()
	}
	eventually(t, func() (bool, string) {
		s.encrypt(t, id)
		idle := slices.DeleteFunc(slices.Clone(members), func(m *member) bool { return m.used() > before[m] })
		var names []string
		for _, m := range idle {
			names = append(names, m.name)
		}
		return len(idle) == 0, "no call for " + strings.Join(names, ", ")
	})
}
