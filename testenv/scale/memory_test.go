package scale

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv"
	"cmkd/testenv/p11kit"
	"cmkd/testenv/rig"
)

// remoteRig runs cmkd in processes of its own, and the module in another one:
// what the module knows is not in the memory of cmkd.
func remoteRig(t *testing.T, cfg rig.Config) *rig.Rig {
	t.Helper()
	cfg.Token = testenv.NewToken(t)
	remote := p11kit.Start(t, cfg.Token)
	name, value, _ := strings.Cut(remote.Env[0], "=")
	cfg.Module, cfg.Env, cfg.Process = remote.Module, map[string]string{name: value}, true
	return rig.New(t, cfg)
}

// TestDataKeysLeaveWrapped searches the memory of the daemon and of the
// plugins for data keys that went to a recipient.
func TestDataKeysLeaveWrapped(t *testing.T) {
	t.Parallel()
	r := remoteRig(t, rig.Config{})
	c, to := r.Client(""), rig.NewRecipient(t)
	id := rig.NewKey(t, c, &kms.CreateKeyInput{})
	var secrets [][]byte
	for _, in := range []*kms.GenerateDataKeyInput{
		{KeySpec: types.DataKeySpecAes256}, {KeySpec: types.DataKeySpecAes128}, {NumberOfBytes: new(int32(64))},
	} {
		in.KeyId, in.Recipient = &id, to.Info()
		made, err := c.GenerateDataKey(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, to.Open(t, made.CiphertextForRecipient))
		opened, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, Recipient: to.Info()})
		if err != nil {
			t.Fatal(err)
		}
		if again := to.Open(t, opened.CiphertextForRecipient); !bytes.Equal(again, secrets[len(secrets)-1]) {
			t.Error("Decrypt gave another data key")
		}
	}
	for _, hit := range searchMemory(t, processes(t, r), secrets) {
		t.Error(hit)
	}
}

// TestSecretsAreFound is the control: the search finds a secret that is held, here in the
// memory of the test. What left in the clear cmkd forgets (testenv/memscan).
func TestSecretsAreFound(t *testing.T) {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	if len(searchMemory(t, map[int]string{os.Getpid(): "the test"}, [][]byte{secret})) == 0 {
		t.Error("a secret that is held was not found")
	}
	runtime.KeepAlive(secret)
}

// processes are the daemon and all its descendants, by name.
func processes(t *testing.T, r *rig.Rig) map[int]string {
	t.Helper()
	all := map[int]string{r.Process.Process.Pid: "cmkd"}
	for _, p := range r.Status(t).Plugins {
		all[p.PID] = p.Name
	}
	if len(all) != 1+len(pluginNames) {
		t.Fatalf("the processes are %v", all)
	}
	return all
}

// searchMemory searches everything that the processes have mapped for the
// secrets, as they are, in hexadecimal and in base64.
func searchMemory(t *testing.T, pids map[int]string, secrets [][]byte) []string {
	t.Helper()
	needles := map[string][]byte{}
	for i, s := range secrets {
		h := hex.EncodeToString(s)
		needles[fmt.Sprintf("data key %d", i)] = s
		needles[fmt.Sprintf("data key %d in hexadecimal", i)] = []byte(h)
		needles[fmt.Sprintf("data key %d in upper-case hexadecimal", i)] = []byte(strings.ToUpper(h))
		// Without the last group, which depends on what follows.
		needles[fmt.Sprintf("data key %d in base64", i)] = []byte(base64.StdEncoding.EncodeToString(s[:len(s)/3*3]))
		// A half tells as much as the whole where a buffer was cut.
		needles[fmt.Sprintf("first half of data key %d", i)] = s[:len(s)/2]
		needles[fmt.Sprintf("second half of data key %d", i)] = s[len(s)/2:]
	}
	var hits []string
	for pid, name := range pids {
		searched := 0
		for _, m := range mappings(t, pid) {
			raw := m.read(t, pid)
			searched += len(raw)
			for what, needle := range needles {
				if at := bytes.Index(raw, needle); at >= 0 {
					hits = append(hits, fmt.Sprintf("%s is in the memory of %s (%s)", what, name, m.name))
				}
			}
		}
		if searched < 1<<20 {
			t.Fatalf("only %d bytes of %s could be read", searched, name)
		}
	}
	return hits
}

// mapping is a line of /proc/PID/maps.
type mapping struct {
	from, to int64
	name     string
}

func mappings(t *testing.T, pid int) []mapping {
	t.Helper()
	f, err := os.Open(filepath.Join("/proc", fmt.Sprint(pid), "maps"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []mapping
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		name := lines.Text()
		if fields := strings.Fields(name); len(fields) > 5 {
			name = fields[5]
		}
		if mode[0] == 'r' && name != "[vvar]" && name != "[vsyscall]" && name != "[vvar_vclock]" {
			all = append(all, mapping{int64(from), int64(to), name})
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// read reads what it can: a part may have been unmapped since.
func (m mapping) read(t *testing.T, pid int) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("/proc", fmt.Sprint(pid), "mem"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw := make([]byte, m.to-m.from)
	n, err := f.ReadAt(raw, m.from)
	if err != nil && !errors.Is(err, io.EOF) && n == 0 {
		return nil
	}
	return raw[:n]
}
