package cluster

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// TestCopy moves an installation from SQLite into etcd and back. What was copied is an
// older database from then on.
func TestCopy(t *testing.T) {
	t.Parallel()
	file := rig.New(t, rig.Config{})
	key := rig.NewKey(t, file.Client(""), &kms.CreateKeyInput{})
	out, err := file.Client("").Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte("text")})
	if err != nil {
		t.Fatal(err)
	}
	served := func(r *rig.Rig) string {
		_, err := r.Client("").Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob})
		return rig.Code(err)
	}
	// The same folder, with another table of the store.
	text, err := os.ReadFile(file.Path)
	if err != nil {
		t.Fatal(err)
	}
	server := etcd.Start(t)
	there := filepath.Join(file.Dir, "etcd.toml")
	table := "[store]\nengine = \"etcd\"\nnode = \"one\"\nendpoints = [\"" + server.Endpoint + "\"]\n[socket]\n"
	if err := os.WriteFile(there, []byte(strings.Replace(string(text), "[socket]\n", table, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if answer, ok := rig.Cmkctl(t, file, "store", "copy", "--from", file.Path, "--to", there); ok || !strings.Contains(answer, "in use by another process") {
		t.Errorf("of a daemon that runs: %t, %s", ok, answer)
	}
	if err := file.Stop(); err != nil {
		t.Fatal(err)
	}
	here := file.Path
	swap := func(path string) { // what the rig starts
		t.Helper()
		file.Path = path
		file.Start(t)
	}
	move := func(from, to string) {
		t.Helper()
		if answer, ok := rig.Cmkctl(t, file, "store", "copy", "--from", from, "--to", to); !ok {
			t.Fatalf("copying: %s", answer)
		}
	}
	stop := func() {
		t.Helper()
		if err := file.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	move(here, there)
	swap(there)
	if got := served(file); got != "" {
		t.Errorf("in etcd: %s", got)
	}
	if _, err := file.Client("").CreateKey(t.Context(), &kms.CreateKeyInput{}); err != nil {
		t.Errorf("in etcd: %v", err)
	}
	if answer, ok := rig.Cmkctl(t, file, "store", "copy", "--from", there, "--to", here); ok || !strings.Contains(answer, "in use by another process") {
		t.Errorf("of a daemon that runs on etcd: %t, %s", ok, answer)
	}
	stop()
	if answer, ok := rig.Cmkctl(t, file, "store", "copy", "--from", there, "--to", here); ok || !strings.Contains(answer, "the database is not empty") {
		t.Errorf("over another: %t, %s", ok, answer)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(rig.Database(file) + suffix); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	move(there, here)
	swap(here)
	if got := served(file); got != "" {
		t.Errorf("back: %s", got)
	}
	if list, err := file.Client("").ListKeys(context.WithoutCancel(t.Context()), &kms.ListKeysInput{}); err != nil || len(list.Keys) != 2 {
		t.Errorf("back: %v, %v", list, err)
	}
	stop()
	swap(there)
	if got := served(file); got != "KMSInvalidStateException" {
		t.Errorf("what was copied: %q", got)
	}
}
