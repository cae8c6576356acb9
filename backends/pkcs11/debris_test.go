package pkcs11_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
)

// TestDebris makes what SoftHSM2 keeps of a creation that was killed in its
// middle, by changing the files of finished keys: an object that is not a token
// object (TOKEN) and one that has no material either (VALUE_LEN). The next
// creation destroys the latter alone.
func TestDebris(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		nameless := objectFile(t, tok)
		patch(t, nameless, ckaToken, 1)
		debris := objectFile(t, tok)
		patch(t, debris, ckaToken, 1)
		patch(t, debris, ckaValueLen, 8)
		unfinished := objectFile(t, tok)
		patch(t, unfinished, ckaValueLen, 8)

		token, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: tok.Module, TokenLabel: tok.Label, PINFile: tok.PINFile})
		if err != nil {
			t.Fatal(err)
		}
		b := pkcs11.NewSymmetric(token)
		defer b.Close()
		for _, f := range []string{nameless, debris, unfinished} {
			if _, err := os.Stat(f); err != nil {
				t.Errorf("after opening: %v", err)
			}
		}
		key := backends.Key{ID: backends.KeyID{1}, Spec: backends.SymmetricDefault, Usage: backends.EncryptDecrypt}
		if _, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key, Label: "cmkd:test:1"}); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(debris); !os.IsNotExist(err) {
			t.Errorf("the debris is still there: %v", err)
		}
		// One is somebody's key; of the other nothing says that a creation
		// was interrupted.
		for _, f := range []string{nameless, unfinished} {
			if _, err := os.Stat(f); err != nil {
				t.Errorf("after the creation: %v", err)
			}
		}
	})
}

const (
	ckaToken    = 0x1
	ckaValueLen = 0x161
)

// objectFile makes an AES key without ID and label, and returns its file.
func objectFile(t *testing.T, tok *testenv.Token) string {
	t.Helper()
	before := objectFiles(t, tok)
	tok.Run(t, "pkcs11-tool", "--module", tok.Module, "--token-label", tok.Label, "--login", "--pin", tok.PIN,
		"--keygen", "--key-type", "AES:32", "--sensitive")
	for f := range objectFiles(t, tok) {
		if !before[f] {
			return f
		}
	}
	t.Fatal("no new file in the token")
	return ""
}

func objectFiles(t *testing.T, tok *testenv.Token) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.Dir(tok.ConfFile), "tokens", "*", "*.object"))
	if err != nil {
		t.Fatal(err)
	}
	set := map[string]bool{}
	for _, f := range files {
		set[f] = true
	}
	return set
}

// patch zeroes the value of an attribute of n bytes in an object's file: there
// it follows its type and its kind, each 8 bytes big-endian.
func patch(t *testing.T, file string, attribute uint64, n int) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	kind := uint64(1) // a boolean
	if n == 8 {
		kind = 2 // a CK_ULONG
	}
	head := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, attribute), kind)
	at := bytes.Index(raw, head)
	if at < 0 {
		t.Fatalf("%s has no attribute %#x", file, attribute)
	}
	clear(raw[at+len(head) : at+len(head)+n])
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}
