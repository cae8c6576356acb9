package p11kit_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"os"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/testenv"
	"cmkd/testenv/p11kit"
)

// TestRemote encrypts and wraps through the remoting, with mechanisms that
// p11-kit alone does not carry, and looks where the module is.
func TestRemote(t *testing.T) {
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		remote := p11kit.Start(t, tok)
		if err := os.Unsetenv("SOFTHSM2_CONF"); err != nil {
			t.Fatal(err)
		}
		name, value, _ := strings.Cut(remote.Env[0], "=")
		if err := os.Setenv(name, value); err != nil {
			t.Fatal(err)
		}
		ctx := p11.New(remote.Module)
		if ctx == nil {
			t.Fatal("the client does not load")
		}
		if err := ctx.Initialize(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(ctx.Destroy)
		slots, err := ctx.GetSlotList(true)
		if err != nil || len(slots) != 1 {
			t.Fatalf("slots %v, %v", slots, err)
		}
		s, err := ctx.OpenSession(slots[0], p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
		if err != nil {
			t.Fatal(err)
		}
		if err := ctx.Login(s, p11.CKU_USER, remote.PIN); err != nil {
			t.Fatal(err)
		}
		key := bytes.Repeat([]byte{7}, 32)
		k, err := ctx.CreateObject(s, []*p11.Attribute{
			p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY), p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_AES),
			p11.NewAttribute(p11.CKA_VALUE, key), p11.NewAttribute(p11.CKA_EXTRACTABLE, true),
			p11.NewAttribute(p11.CKA_ENCRYPT, true), p11.NewAttribute(p11.CKA_WRAP, true),
		})
		if err != nil {
			t.Fatal(err)
		}

		iv, aad, plaintext := []byte("twelve bytes"), []byte("associated data"), []byte("plaintext")
		g := p11.NewGCMParams(iv, aad, 128)
		defer g.Free()
		if err := ctx.EncryptInit(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_GCM, g)}, k); err != nil {
			t.Fatal(err)
		}
		got, err := ctx.Encrypt(s, plaintext)
		if err != nil {
			t.Fatal(err)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		if want := gcm.Seal(nil, iv, plaintext, aad); !bytes.Equal(got, want) {
			t.Errorf("AES-GCM through p11-kit: %x, want %x", got, want)
		}
		if _, err := ctx.WrapKey(s, []*p11.Mechanism{p11.NewMechanism(0x210A, nil)}, k, k); err != nil {
			t.Errorf("AES key wrap through p11-kit: %v", err)
		}

		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(maps, []byte("softhsm")) || !bytes.Contains(maps, []byte("p11-kit-client")) {
			t.Error("the module is in this process")
		}
	})
}
