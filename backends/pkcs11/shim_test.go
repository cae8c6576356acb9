package pkcs11_test

import (
	"bytes"
	"context"
	"maps"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/backendstest"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
	"cmkd/testenv/shim"
)

// shimmed puts a shim before the token's module in this process.
func shimmed(t *testing.T, tok *testenv.Token) *shim.Control {
	t.Helper()
	m := shim.New(t, tok.Module)
	for _, e := range m.Env {
		name, value, _ := strings.Cut(e, "=")
		if err := os.Setenv(name, value); err != nil {
			t.Fatal(err)
		}
	}
	tok.Module = m.Path
	return m.Control
}

// behind returns the token as what is behind a shim sees it, for putting
// objects there by SoftHSM2's manners.
func behind(tok *testenv.Token) *testenv.Token {
	b := *tok
	b.Module = os.Getenv("CMKD_SHIM_MODULE")
	return &b
}

// TestCloudHSM runs the suite on a token with the manners of AWS CloudHSM.
func TestCloudHSM(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		shimmed(t, tok).CloudHSM(true)
		for name, backend := range map[string]func(*pkcs11.Token) backends.Backend{
			"Symmetric": func(k *pkcs11.Token) backends.Backend { return pkcs11.NewSymmetric(k) },
			"HMAC":      func(k *pkcs11.Token) backends.Backend { return pkcs11.NewHMAC(k) },
		} {
			t.Run(name, func(t *testing.T) {
				k := open(t, tok)
				supportsAll(t, backend(k))
				r := rig(tok, backend)
				r.Plant = nil // CloudHSM has no such keys
				r.Inject = rig(behind(tok), backend).Inject
				backendstest.Run(t, r)
			})
		}
		info, err := pkcs11.NewSymmetric(open(t, tok)).Info(t.Context(), nil)
		if err != nil || info.Facts["aes-gcm-iv-by-token"] != "yes" || info.Facts["aes-key-wrap-pad"] != "0x8000216F" {
			t.Errorf("probing found %v, %v", info, err)
		}
	})
}

// TestLeakyToken opens tokens that let keys out.
func TestLeakyToken(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		for _, function := range []string{"C_CopyObject", "C_SetAttributeValue", "C_WrapKey"} {
			control.Set(function, shim.Fail(p11.CKR_OK)) // says that it did
			_, err := pkcs11.Open(t.Context(), config(tok))
			wantCode(t, function+" succeeds", err, backends.KeyUnsafe)
			control.Clear(function)
		}
		for name, manners := range map[string][]shim.Manner{
			"reads secret keys": {shim.ReadsSecretKeys}, "wraps under RSA": {shim.WrapsUnderRSA},
			"reads generic secrets": {shim.ReadsGenericSecrets}, "reads the secrets that it has": {shim.NoAES, shim.ReadsGenericSecrets},
			"wraps by CTR": {shim.WrapsByCTR}, "wraps by GCM": {shim.WrapsByGCM}, "wraps by DES3": {shim.WrapsByDES3},
			"wraps by OAEP with SHA-256": {shim.WrapsByOAEP256}, "wraps by RSA and AES": {shim.WrapsByRSAAES},
			"wraps by the vendor's mechanism": {shim.WrapsByVendors}, "derives keys": {shim.DerivesKeys},
			"wraps by a mechanism that it lists": {shim.WrapsByListed}, "concatenates": {shim.Concatenates},
			"copies forgetfully": {shim.CopiesForgetfully}, "reads values beside others": {shim.ReadsInCompany},
			"derives keys when told to": {shim.AddsUsages, shim.DerivesAdded},
		} {
			control.Manners(manners...)
			_, err := pkcs11.Open(t.Context(), config(tok))
			wantCode(t, "a token that "+name, err, backends.KeyUnsafe)
		}
		control.Manners(shim.AddsUsages)
		k, err := pkcs11.Open(t.Context(), config(tok))
		if err != nil {
			t.Fatalf("a token that adds usages, and gives nothing away: %v", err)
		}
		if info, err := pkcs11.NewSymmetric(k).Info(t.Context(), nil); err != nil || info.Facts["usages-added-later"] != "CKA_DERIVE, CKA_WRAP" {
			t.Errorf("usages can be added, and the facts are %v, %v", info, err)
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
		control.Manners(shim.WrapsUnderRSA)
		control.Set("C_CreateObject", shim.Fail(p11.CKR_ATTRIBUTE_VALUE_INVALID))
		_, err = pkcs11.Open(t.Context(), config(tok))
		wantCode(t, "a token that wraps under RSA keys of its own", err, backends.KeyUnsafe)
		control.Clear("C_CreateObject")
		for name, manner := range map[string]shim.Manner{
			"reads private keys": shim.ReadsPrivateKeys, "wraps private keys": shim.WrapsPrivateKeys,
			"copies private keys": shim.CopiesPrivateKeys, "changes private keys": shim.ChangesPrivateKeys,
			"reads Edwards keys": shim.ReadsEdwardsKeys, "wraps RSA keys": shim.WrapsRSAKeys,
		} {
			control.Manners(manner)
			k, err := pkcs11.Open(t.Context(), config(tok))
			if err != nil {
				t.Fatal(err)
			}
			_, err = pkcs11.NewAsymmetric(t.Context(), k)
			wantCode(t, "a token that "+name, err, backends.KeyUnsafe)
			if err := k.Close(); err != nil {
				t.Error(err)
			}
		}
		readsWhatStays(t, tok, control)
		control.Manners()
		control.Set("C_Decrypt", shim.Fail(p11.CKR_OK)) // whatever the tag
		k, err = pkcs11.Open(t.Context(), config(tok))
		if err != nil {
			t.Fatal(err)
		}
		b := pkcs11.NewSymmetric(k)
		_, err = b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: unknownKey(), Label: "cmkd:test:1"})
		wantCode(t, "a key in a token that accepts every tag", err, backends.Unsupported)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		control.Clear("C_Decrypt")
		open(t, tok)
	})
}

// readsWhatStays: a key that stays and can be read does not, and one that could not be read
// before serves no more.
func readsWhatStays(t *testing.T, tok *testenv.Token, control *shim.Control) {
	t.Helper()
	control.Manners()
	k, err := pkcs11.Open(t.Context(), config(tok))
	if err != nil {
		t.Fatal(err)
	}
	before := newKey(t, pkcs11.NewSymmetric(k))
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	control.Manners(shim.ReadsTokenObjects)
	if k, err = pkcs11.Open(t.Context(), config(tok)); err != nil {
		t.Fatal(err)
	}
	s, a := pkcs11.NewSymmetric(k), asymmetric(t, k)
	_, err = s.Encrypt(t.Context(), &backends.EncryptRequest{Key: before, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("x")})
	wantCode(t, "a key that can be read now", err, backends.KeyUnsafe)
	for _, spec := range []backends.KeySpec{backends.SymmetricDefault, backends.RSA2048, backends.P256} {
		var b backends.Backend = a
		key := backends.Key{ID: randomID(), Spec: spec, Usage: backends.SignVerify}
		if spec == backends.SymmetricDefault {
			b, key.Usage = s, backends.EncryptDecrypt
		}
		_, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key, Label: "cmkd:test:1"})
		wantCode(t, "a new key that can be read", err, backends.KeyUnsafe)
		_, err = b.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: key})
		wantCode(t, "a key that was made in vain", err, backends.KeyMissing)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// TestUntried opens a token that gives Edwards keys away, and once makes no pair: what could not
// be tried is not served.
func TestUntried(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		before := control.Calls("C_GenerateKeyPair")
		asymmetric(t, open(t, tok))
		pairs := control.Calls("C_GenerateKeyPair") - before
		control.Manners(shim.ReadsEdwardsKeys)
		unsafe := 0
		for i := range pairs {
			k, err := pkcs11.Open(t.Context(), config(tok))
			if err != nil {
				t.Fatal(err)
			}
			control.SetRule("C_GenerateKeyPair", shim.Rule{Do: shim.Fail(p11.CKR_ATTRIBUTE_VALUE_INVALID), Skip: i, Times: 1})
			b, err := pkcs11.NewAsymmetric(t.Context(), k)
			control.Clear("C_GenerateKeyPair")
			if err != nil {
				wantCode(t, "a token that gives Edwards keys away", err, backends.KeyUnsafe)
				unsafe++
			} else {
				key := backends.Key{ID: randomID(), Spec: backends.Ed25519, Usage: backends.SignVerify}
				_, err = b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key, Label: "cmkd:test:1"})
				wantCode(t, "an Edwards key, of which none was tried", err, backends.Unsupported)
			}
			if err := k.Close(); err != nil {
				t.Error(err)
			}
		}
		if unsafe == 0 || unsafe == int(pairs) {
			t.Errorf("%d of %d tokens are unsafe: the failing call was never the one that is tried, or always another", unsafe, pairs)
		}
	})
}

// TestLeakBehindFailure opens a token that gives generic secrets away, of which one call after
// the other fails for a moment: a failure is no refusal.
func TestLeakBehindFailure(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		control.Manners(shim.ReadsGenericSecrets)
		before := control.Calls("C_GetAttributeValue")
		_, err := pkcs11.Open(t.Context(), config(tok))
		wantCode(t, "a token that gives secrets away", err, backends.KeyUnsafe)
		for i := range control.Calls("C_GetAttributeValue") - before {
			for _, rv := range []uint{p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED, p11.CKR_DEVICE_ERROR} {
				control.SetRule("C_GetAttributeValue", shim.Rule{Do: shim.Fail(rv), Skip: i, Times: 1})
				switch _, err := pkcs11.Open(t.Context(), config(tok)); {
				case rv == p11.CKR_DEVICE_ERROR && backends.CodeOf(err) == backends.Lost:
				case backends.CodeOf(err) != backends.KeyUnsafe || !strings.Contains(err.Error(), "a generic secret"):
					t.Errorf("call %d failed with %#x: %v", i, rv, err)
				}
				control.Clear("C_GetAttributeValue")
			}
		}
		// Nor is it a leak of a token that keeps its keys.
		control.Manners(shim.AddsUsages)
		before = control.Calls("C_GetAttributeValue")
		open(t, tok)
		for i := range control.Calls("C_GetAttributeValue") - before {
			control.SetRule("C_GetAttributeValue", shim.Rule{Do: shim.Fail(p11.CKR_DEVICE_ERROR), Skip: i, Times: 1})
			k, err := pkcs11.Open(t.Context(), config(tok))
			switch {
			case err == nil:
				err = k.Close()
			case backends.CodeOf(err) == backends.Lost:
				err = nil
			}
			if err != nil {
				t.Errorf("call %d failed for a moment: %v", i, err)
			}
			control.Clear("C_GetAttributeValue")
		}
		control.Manners(shim.WrapsByVendors)
		for _, function := range []string{"C_GetMechanismList", "C_GetMechanismInfo"} {
			for i := range uint64(8) { // a list takes two calls
				control.SetRule(function, shim.Rule{Do: shim.Fail(p11.CKR_FUNCTION_FAILED), Skip: i, Times: 1})
				_, err := pkcs11.Open(t.Context(), config(tok))
				if code := backends.CodeOf(err); code != backends.Lost && code != backends.KeyUnsafe {
					t.Errorf("opened although call %d of %s failed: %v", i, function, err)
				}
				control.Clear(function)
			}
		}
	})
}

// TestLies: what a module says that cannot be costs an error, and neither memory nor the process.
func TestLies(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		control.Manners(shim.FindsForever)
		_, err := pkcs11.Open(t.Context(), config(tok))
		wantCode(t, "a search that does not end", err, backends.Lost)
		control.Manners()
		control.CloudHSM(true) // which makes the IVs
		b := pkcs11.NewSymmetric(open(t, tok))
		key, w := newKey(t, b), unknownKey()
		w.Spec, w.Usage = backends.AES256, backends.WrapDataKeys
		if _, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: w, Label: "cmkd:w:1"}); err != nil {
			t.Fatal(err)
		}
		encrypt := func() error {
			_, err := b.Encrypt(t.Context(), &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("x")})
			return err
		}
		random := func(length int) error {
			_, err := b.GenerateRandom(t.Context(), &backends.GenerateRandomRequest{Length: length})
			return err
		}
		for range 2 {
			if err := encrypt(); err != nil {
				t.Fatal(err)
			}
		}
		control.CloudHSM(false) // it takes the IV that it is given
		wantCode(t, "an IV that nobody has made", encrypt(), backends.Lost)
		control.CloudHSM(true)
		if err := encrypt(); err != nil {
			t.Error(err)
		}
		control.Manners(shim.NoRandom)
		wantCode(t, "random bytes that nobody has made", random(32), backends.Lost)
		control.Manners(shim.LittleIsDeviceError)
		wantCode(t, "few random bytes", random(1), backends.Unsupported)
		control.Manners(shim.WrapsTooMuch)
		_, err = b.GenerateDataKey(t.Context(), &backends.GenerateDataKeyRequest{Key: key, Wrapping: w, Length: 32, Recipient: benchRecipient(t), Plaintext: true})
		wantCode(t, "a wrapped key of a length that cannot be", err, backends.Lost)
		control.Manners()
		if err := random(1); err != nil {
			t.Error(err)
		}
	})
}

// TestTroubledToken lets calls fail in ways that may or may not pass.
func TestTroubledToken(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		b := pkcs11.NewSymmetric(open(t, tok))
		key, w := newKey(t, b), unknownKey()
		w.Spec, w.Usage = backends.AES256, backends.WrapDataKeys
		if _, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: w, Label: "cmkd:w:1"}); err != nil {
			t.Fatal(err)
		}
		plaintext := []byte("a plaintext of usual length")
		encrypt := func() (*backends.EncryptAnswer, error) {
			return b.Encrypt(t.Context(), &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: plaintext})
		}
		good, err := encrypt()
		if err != nil {
			t.Fatal(err)
		}
		decrypt := func() error {
			answer, err := b.Decrypt(t.Context(), &backends.DecryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Sealed: good.Sealed})
			if err == nil && !bytes.Equal(answer.Plaintext, plaintext) {
				t.Error("another plaintext comes back")
			}
			return err
		}
		dataKey := func() error {
			made, err := b.GenerateDataKey(t.Context(), &backends.GenerateDataKeyRequest{
				Key: key, Wrapping: w, Length: 33, Recipient: benchRecipient(t), Plaintext: true,
			})
			if err != nil {
				return err
			}
			_, err = b.OpenDataKey(t.Context(), &backends.OpenDataKeyRequest{Key: key, Sealed: made.Sealed, Plaintext: true})
			return err
		}
		calls := map[string]func() error{
			"Encrypt":  func() error { _, err := encrypt(); return err },
			"Decrypt":  decrypt,
			"data key": dataKey,
			"ListKeys": func() error { _, err := b.ListKeys(t.Context(), nil); return err },
			"CheckKey": func() error { _, err := b.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: key}); return err },
			"an absent key": func() error {
				_, err := b.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: unknownKey()})
				return err
			},
		}
		want := func(what string, rule shim.Rule, function, call string, code backends.Code) {
			t.Helper()
			control.SetRule(function, rule)
			wantCode(t, what, calls[call](), code)
			control.Clear(function)
		}
		for _, c := range []struct {
			call, function string
			// passes: the input may be to blame, so that the call is made again.
			passes bool
		}{
			{"Encrypt", "C_EncryptInit", false},
			{"Encrypt", "C_Encrypt", false},
			{"Decrypt", "C_DecryptInit", true},
			{"Decrypt", "C_Decrypt", true},
			{"data key", "C_GenerateKey", false},
			{"data key", "C_WrapKey", false},
			{"data key", "C_UnwrapKey", true},
			{"data key", "C_DeriveKey", false},
			{"data key", "C_GetAttributeValue", false},
			{"data key", "C_CreateObject", true},
			{"ListKeys", "C_FindObjects", false},
			{"ListKeys", "C_FindObjectsInit", false},
			{"ListKeys", "C_GetAttributeValue", false},
			{"CheckKey", "C_GetAttributeValue", false},
			{"an absent key", "C_GetSessionInfo", false},
		} {
			fail, code := shim.Fail(p11.CKR_DEVICE_ERROR), backends.Lost
			if c.passes {
				want(c.call+" when "+c.function+" always fails", shim.Rule{Do: fail}, c.function, c.call, backends.Lost)
				code = ""
			}
			want(c.call+" when "+c.function+" fails once", shim.Rule{Do: fail, Times: 1}, c.function, c.call, code)
		}
		bad, once := shim.Fail(p11.CKR_GENERAL_ERROR), uint64(1)
		want("a good ciphertext, when C_Decrypt fails for a moment", shim.Rule{Do: bad, Times: once}, "C_Decrypt", "Decrypt", "")
		want("a good ciphertext, when C_Decrypt always fails", shim.Rule{Do: bad}, "C_Decrypt", "Decrypt", backends.Lost)
		stale := shim.Fail(p11.CKR_OBJECT_HANDLE_INVALID)
		want("a handle that is stale once", shim.Rule{Do: stale, Times: once}, "C_EncryptInit", "Encrypt", "")
		want("a handle that stays stale", shim.Rule{Do: stale}, "C_EncryptInit", "Encrypt", backends.Lost)
		for name, call := range calls {
			code := backends.Code("")
			if name == "an absent key" {
				code = backends.KeyMissing
			}
			wantCode(t, name+" afterwards", call(), code)
		}
		opened, closed := control.Calls("C_OpenSession"), control.Calls("C_CloseSession")
		info, err := b.Info(t.Context(), nil)
		if err != nil || opened-closed != uint64(info.Token.OpenSessions) {
			t.Errorf("%d sessions were opened and %d closed, but %+v: %v", opened, closed, info, err)
		}
	})
}

// TestFailedButPersisted creates keys while the token says that it could not
// make what it made.
func TestFailedButPersisted(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		// What is vague is made again at once, and found then.
		for _, rv := range []uint{p11.CKR_DEVICE_ERROR, p11.CKR_FUNCTION_FAILED, p11.CKR_GENERAL_ERROR} {
			for name, reopen := range map[string]bool{"in this process": false, "in a new one": true} {
				b := pkcs11.NewSymmetric(open(t, tok))
				in := &backends.CreateKeyRequest{Key: unknownKey(), Label: "cmkd:test:1"}
				control.SetRule("C_GenerateKey", shim.Rule{Do: shim.FailAfter(rv), Times: 1})
				_, err := b.CreateKey(t.Context(), in)
				wantCode(t, "creating", err, "")
				if reopen {
					b = pkcs11.NewSymmetric(open(t, tok))
				}
				answer, err := b.CreateKey(t.Context(), in)
				if err != nil || !answer.Existed {
					t.Errorf("creating again %s: %+v, %v", name, answer, err)
				}
				destroyed, err := b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: in.Key})
				if err != nil || destroyed.Objects != 1 {
					t.Errorf("destroying: %+v, %v", destroyed, err)
				}
			}
		}
	})
}

// TestHungCall has one session, which a call that never returns holds.
func TestHungCall(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		cfg := config(tok)
		cfg.MaxSessions = 3
		k, err := pkcs11.Open(t.Context(), cfg) // not closed: that would wait for the call
		if err != nil {
			t.Fatal(err)
		}
		b := pkcs11.NewSymmetric(k)
		key := newKey(t, b)
		control.Set("C_Encrypt", shim.Hang)
		encrypt := func(ctx context.Context) error {
			_, err := b.Encrypt(ctx, &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("x")})
			return err
		}
		before := control.Calls("C_Encrypt")
		go func() { _ = encrypt(context.Background()) }() // ends with the process
		for control.Calls("C_Encrypt") == before {
			runtime.Gosched()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		wantCode(t, "a call that waits for a session", encrypt(ctx), backends.Timeout)
	})
}

// TestTroubleWhileProbing: a fault that passes does not make a token one that
// lacks a mechanism. It is opened as ever, or is to be opened again.
func TestTroubleWhileProbing(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		facts := func() (map[string]string, error) {
			k, err := pkcs11.Open(t.Context(), config(tok))
			if err != nil {
				return nil, err
			}
			defer func() {
				if err := k.Close(); err != nil {
					t.Error(err)
				}
			}()
			a, err := pkcs11.NewAsymmetric(t.Context(), k)
			if err != nil {
				return nil, err
			}
			info, err := a.Info(t.Context(), nil)
			if err != nil {
				return nil, err
			}
			return info.Facts, nil
		}
		want, err := facts()
		if err != nil {
			t.Fatal(err)
		}
		for _, function := range []string{
			"C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt", "C_SignInit", "C_Sign", "C_CreateObject",
			"C_GenerateKey", "C_GenerateKeyPair", "C_WrapKey", "C_UnwrapKey",
		} {
			for _, rv := range []uint{p11.CKR_DEVICE_ERROR, p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_GENERAL_ERROR} {
				control.SetRule(function, shim.Rule{Do: shim.Fail(rv), Times: 1})
				switch got, err := facts(); {
				case backends.CodeOf(err) == backends.Lost:
				case err != nil:
					t.Errorf("%s answers 0x%X: %v", function, rv, err)
				case !maps.Equal(got, want):
					t.Errorf("%s answers 0x%X: probing found %v, want %v", function, rv, got, want)
				}
				control.Clear(function)
			}
		}
	})
}
