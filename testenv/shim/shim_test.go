package shim_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"cmkd/testenv"
	"cmkd/testenv/shim"
)

// session opens the token through the shim, in a process that testenv.Isolated
// has made, and logs in.
func session(t *testing.T, m *shim.Module, tok *testenv.Token) (*p11.Ctx, p11.SessionHandle) {
	t.Helper()
	for _, e := range m.Env {
		name, value, _ := strings.Cut(e, "=")
		if err := os.Setenv(name, value); err != nil {
			t.Fatal(err)
		}
	}
	ctx := p11.New(m.Path)
	if ctx == nil {
		t.Fatal("the shim does not load")
	}
	if err := ctx.Initialize(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ctx.Destroy() })
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if info, err := ctx.GetTokenInfo(slot); err == nil && info.Label == tok.Label {
			s, err := ctx.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
			if err != nil {
				t.Fatal(err)
			}
			if err := ctx.Login(s, p11.CKU_USER, tok.PIN); err != nil {
				t.Fatal(err)
			}
			return ctx, s
		}
	}
	t.Fatal("no token behind the shim")
	return nil, 0
}

func rv(err error) uint {
	if e, ok := errors.AsType[p11.Error](err); ok {
		return uint(e)
	}
	return 0
}

func TestRules(t *testing.T) {
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		m := shim.New(t, tok.Module)
		ctx, s := session(t, m, tok)
		random := func() error { _, err := ctx.GenerateRandom(s, 8); return err }

		before := m.Control.Calls("C_GenerateRandom")
		m.Control.SetRule("C_GenerateRandom", shim.Rule{Do: shim.Fail(p11.CKR_DEVICE_ERROR), Skip: 2, Times: 3})
		for i, want := range []uint{0, 0, p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_ERROR, 0, 0} {
			if got := rv(random()); got != want {
				t.Errorf("call %d: CKR %#x, want %#x", i, got, want)
			}
		}
		if n := m.Control.Calls("C_GenerateRandom") - before; n != 7 {
			t.Errorf("%d calls counted, want 7", n)
		}
		m.Control.Set("C_GenerateRandom", shim.Fail(p11.CKR_DEVICE_MEMORY))
		if got := rv(random()); got != p11.CKR_DEVICE_MEMORY {
			t.Errorf("CKR %#x", got)
		}
		m.Control.Clear("C_GenerateRandom")
		if err := random(); err != nil {
			t.Error(err)
		}
		m.Control.Set("C_GenerateRandom", shim.Delay(20*time.Millisecond))
		if began := time.Now(); random() != nil || time.Since(began) < 20*time.Millisecond {
			t.Errorf("not delayed: %v", time.Since(began))
		}

		m.Control.SetRule("C_GenerateKey", shim.Rule{Do: shim.FailAfter(p11.CKR_DEVICE_ERROR), Times: 1})
		if _, err := generate(ctx, s, "persisted", true); rv(err) != p11.CKR_DEVICE_ERROR {
			t.Errorf("FailAfter: %v", err)
		}
		if n := count(t, ctx, s, "persisted"); n != 1 {
			t.Errorf("FailAfter left %d keys, want 1", n)
		}
	})
}

func TestHangAndCrash(t *testing.T) {
	t.Parallel()
	tok := testenv.NewToken(t)
	m := shim.New(t, tok.Module)
	tool := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "pkcs11-tool", "--module", m.Path, "--generate-random", "8")
		cmd.Env = append(append(os.Environ(), tok.Env...), m.Env...)
		return cmd
	}
	if out, err := tool().CombinedOutput(); err != nil {
		t.Fatalf("without a rule: %v\n%s", err, out)
	}
	for name, a := range map[string]shim.Action{"Crash": shim.Crash, "CrashAfter": shim.CrashAfter} {
		m.Control.Set("C_GenerateRandom", a)
		cmd := tool()
		_ = cmd.Run()
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGSEGV {
			t.Errorf("%s: the process ended with %v", name, cmd.ProcessState)
		}
	}
	m.Control.Set("C_GenerateRandom", shim.Noise)
	if out, err := tool().Output(); err != nil || !bytes.Contains(out, []byte("shim: noise from C_GenerateRandom")) {
		t.Errorf("Noise: %v, %q", err, out)
	}

	m.Control.Set("C_GenerateRandom", shim.Hang)
	calls := m.Control.Calls("C_GenerateRandom")
	cmd := tool()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for m.Control.Calls("C_GenerateRandom") == calls && t.Context().Err() == nil {
		time.Sleep(time.Millisecond) // polls a counter
	}
	if err := cmd.Process.Kill(); err != nil { // fails if it has ended
		t.Errorf("Hang: %v", err)
	}
	_ = cmd.Wait()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		t.Errorf("Hang: the process ended with %v before it was killed", cmd.ProcessState)
	}
}

func generate(ctx *p11.Ctx, s p11.SessionHandle, id string, token bool) (p11.ObjectHandle, error) {
	return ctx.GenerateKey(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_GEN, nil)}, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, token), p11.NewAttribute(p11.CKA_ID, []byte(id)),
		p11.NewAttribute(p11.CKA_VALUE_LEN, 32), p11.NewAttribute(p11.CKA_EXTRACTABLE, true),
		p11.NewAttribute(p11.CKA_ENCRYPT, true), p11.NewAttribute(p11.CKA_DECRYPT, true),
		p11.NewAttribute(p11.CKA_WRAP, true), p11.NewAttribute(p11.CKA_UNWRAP, true),
	})
}

func count(t *testing.T, ctx *p11.Ctx, s p11.SessionHandle, id string) int {
	t.Helper()
	if err := ctx.FindObjectsInit(s, []*p11.Attribute{p11.NewAttribute(p11.CKA_ID, []byte(id))}); err != nil {
		t.Fatal(err)
	}
	found, _, err := ctx.FindObjects(s, 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := ctx.FindObjectsFinal(s); err != nil {
		t.Fatal(err)
	}
	return len(found)
}

// TestRoom: no room for objects, and write protection.
func TestRoom(t *testing.T) {
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		m := shim.New(t, tok.Module)
		ctx, s := session(t, m, tok)
		info, err := ctx.GetSessionInfo(s)
		if err != nil {
			t.Fatal(err)
		}
		second, err := ctx.OpenSession(info.SlotID, p11.CKF_SERIAL_SESSION)
		if err != nil {
			t.Fatal(err)
		}
		m.Control.RefuseObjects(p11.CKR_DEVICE_MEMORY)
		if _, err := generate(ctx, s, "full", true); rv(err) != p11.CKR_DEVICE_MEMORY {
			t.Errorf("a key in a token without room: %v", err)
		}
		if _, err := generate(ctx, s, "full", false); err != nil {
			t.Errorf("a session key: %v", err)
		}
		m.Control.RefuseObjects(p11.CKR_OK)
		if _, err := generate(ctx, s, "room", true); err != nil {
			t.Errorf("with room again: %v", err)
		}

		m.Control.ReadOnly(true)
		if tok, err := ctx.GetTokenInfo(info.SlotID); err != nil || tok.Flags&p11.CKF_WRITE_PROTECTED == 0 {
			t.Errorf("token info %+v, %v", tok, err)
		}
		if _, err := ctx.OpenSession(info.SlotID, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION); rv(err) != p11.CKR_TOKEN_WRITE_PROTECTED {
			t.Errorf("a read-write session: %v", err)
		}
		if _, err := generate(ctx, second, "protected", false); err != nil {
			t.Errorf("a session key in a read-only session: %v", err)
		}
		if _, err := generate(ctx, s, "protected", true); rv(err) != p11.CKR_TOKEN_WRITE_PROTECTED {
			t.Errorf("a token key: %v", err)
		}
	})
}

func TestCloudHSM(t *testing.T) {
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		m := shim.New(t, tok.Module)
		m.Control.CloudHSM(true)
		ctx, s := session(t, m, tok)
		key, err := generate(ctx, s, "one", true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := generate(ctx, s, "one", true); rv(err) != p11.CKR_ATTRIBUTE_VALUE_INVALID {
			t.Errorf("second key with one CKA_ID: %v", err)
		}
		if _, err := generate(ctx, s, "one", false); err != nil {
			t.Errorf("session key with the CKA_ID of a token key: %v", err)
		}

		sealed := map[string]bool{}
		for range 2 {
			p := p11.NewGCMParams(make([]byte, 12), nil, 128)
			if err := ctx.EncryptInit(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_GCM, p)}, key); err != nil {
				t.Fatal(err)
			}
			out, err := ctx.Encrypt(s, []byte("plaintext"))
			if err != nil {
				t.Fatal(err)
			}
			iv := p.IV()
			p.Free()
			sealed[string(out)] = true
			d := p11.NewGCMParams(iv, nil, 128)
			if err := ctx.DecryptInit(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_GCM, d)}, key); err != nil {
				t.Fatal(err)
			}
			if got, err := ctx.Decrypt(s, out); err != nil || string(got) != "plaintext" {
				t.Errorf("with the IV that the module made: %q, %v", got, err)
			}
			d.Free()
		}
		if len(sealed) != 2 {
			t.Error("the module made one IV twice")
		}
		p := p11.NewGCMParams([]byte("twelve bytes"), nil, 128)
		if err := ctx.EncryptInit(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_GCM, p)}, key); rv(err) != p11.CKR_MECHANISM_PARAM_INVALID {
			t.Errorf("an IV of the caller: %v", err)
		}
		p.Free()

		for mech, want := range map[uint]uint{0x2109: p11.CKR_MECHANISM_INVALID, 0x210A: p11.CKR_MECHANISM_INVALID, 0x210B: p11.CKR_MECHANISM_INVALID, 0x8000216F: 0} {
			if _, err := ctx.WrapKey(s, []*p11.Mechanism{p11.NewMechanism(mech, nil)}, key, key); rv(err) != want {
				t.Errorf("wrapping by %#x: %v", mech, err)
			}
		}
		secret := func(more ...*p11.Attribute) error {
			_, err := ctx.GenerateKey(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_GENERIC_SECRET_KEY_GEN, nil)}, append([]*p11.Attribute{
				p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_ID, []byte("secret")),
				p11.NewAttribute(p11.CKA_VALUE_LEN, 32), p11.NewAttribute(p11.CKA_SIGN, true),
			}, more...))
			return err
		}
		if err := secret(p11.NewAttribute(p11.CKA_ENCRYPT, false)); rv(err) != p11.CKR_ATTRIBUTE_TYPE_INVALID {
			t.Errorf("a generic secret with CKA_ENCRYPT: %v", err)
		}
		if err := secret(); err != nil {
			t.Errorf("a generic secret: %v", err)
		}
	})
}
