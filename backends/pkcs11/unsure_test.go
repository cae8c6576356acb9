package pkcs11_test

import (
	"errors"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
	"cmkd/testenv/shim"
)

// TestUnsure: what a token may make yet that did not answer is told to the daemon. Behind a
// network it may be at it whatever the module says, also where that answers as SoftHSM2 does
// that cannot write (CKR_GENERAL_ERROR).
func TestUnsure(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		k := open(t, tok)
		s, a := pkcs11.NewSymmetric(k), asymmetric(t, k)
		for what, c := range map[string]struct {
			b        backends.Backend
			spec     backends.KeySpec
			usage    backends.Usage
			function string
		}{
			"a key":  {s, backends.SymmetricDefault, backends.EncryptDecrypt, "C_GenerateKey"},
			"a pair": {a, backends.P256, backends.SignVerify, "C_GenerateKeyPair"},
		} {
			create := func() (*backends.CreateKeyAnswer, error) {
				return c.b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: backends.Key{ID: randomID(), Spec: c.spec, Usage: c.usage}, Label: "cmkd:test:1"})
			}
			for _, rv := range []uint{p11.CKR_DEVICE_ERROR, p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED} {
				control.SetRule(c.function, shim.Rule{Do: shim.Fail(rv), Times: 1})
				if made, err := create(); err != nil || !made.Unsure {
					t.Errorf("%s at the second attempt, after %s: %+v, %v", what, p11.Error(rv), made, err)
				}
				control.RefuseObjects(rv)
				_, err := create()
				control.RefuseObjects(p11.CKR_OK)
				if e, ok := errors.AsType[*backends.Error](err); !ok || e.Code != backends.TokenFull || !e.Unsure {
					t.Errorf("%s in a token that makes none: %v", what, err)
				}
			}
			control.SetRule(c.function, shim.Rule{Do: shim.FailAfter(p11.CKR_HOST_MEMORY), Times: 1})
			if _, err := create(); backends.CodeOf(err) != backends.Busy || !backends.Doubtful(err) {
				t.Errorf("%s of which the module has no memory for the answer: %v", what, err)
			}
			control.SetRule(c.function, shim.Rule{Do: shim.FailAfter(p11.CKR_VENDOR_DEFINED + 1), Times: 1})
			if _, err := create(); backends.CodeOf(err) != backends.Internal || !backends.Doubtful(err) {
				t.Errorf("%s, after an answer that only the vendor knows: %v", what, err)
			}
			control.SetRule(c.function, shim.Rule{Do: shim.FailAfter(p11.CKR_DEVICE_ERROR), Times: 1})
			if made, err := create(); err != nil || !made.Existed || made.Unsure {
				t.Errorf("%s that is there: %+v, %v", what, made, err)
			}
			unread(t, control, c.function, create)
			reread(t, tok, control, backends.Key{ID: randomID(), Spec: c.spec, Usage: c.usage})
		}
	})
}

// unread has a creation by function fail at each point at which an attribute is read, for want of
// memory: it is unsure from when function was called.
func unread(t *testing.T, control *shim.Control, function string, create func() (*backends.CreateKeyAnswer, error)) {
	t.Helper()
	const read = "C_GetAttributeValue"
	before := control.Calls(read)
	if _, err := create(); err != nil {
		t.Fatal(err)
	}
	reads, unsure := control.Calls(read)-before, 0
	for skip := range reads {
		before := control.Calls(function)
		control.SetRule(read, shim.Rule{Do: shim.Fail(p11.CKR_HOST_MEMORY), Skip: skip, Times: 1})
		_, err := create()
		control.Clear(read)
		made := control.Calls(function) > before
		if backends.CodeOf(err) != backends.Busy || backends.Doubtful(err) != made {
			t.Errorf("%s, when attribute %d of %d is not read: %v; it was called: %t", function, skip+1, reads, err, made)
		}
		if made {
			unsure++
		}
	}
	if unsure == 0 {
		t.Errorf("nothing is read after %s", function)
	}
}

// reread has the creation of a key that is there fail at each point at which an attribute is read, in
// a process that did not make it: it is unsure at each of them.
func reread(t *testing.T, tok *testenv.Token, control *shim.Control, key backends.Key) {
	t.Helper()
	const read = "C_GetAttributeValue"
	for skip := uint64(0); ; skip++ {
		k := open(t, tok)
		var b backends.Backend = pkcs11.NewSymmetric(k)
		if key.Usage == backends.SignVerify {
			b = asymmetric(t, k)
		}
		in := &backends.CreateKeyRequest{Key: key, Label: "cmkd:test:1"}
		if skip == 0 {
			if _, err := b.CreateKey(t.Context(), in); err != nil {
				t.Fatal(err)
			}
			continue
		}
		control.SetRule(read, shim.Rule{Do: shim.Fail(p11.CKR_HOST_MEMORY), Skip: skip - 1, Times: 1})
		before := control.Calls(read)
		_, err := b.CreateKey(t.Context(), in)
		reads := control.Calls(read) - before
		control.Clear(read)
		if err == nil && reads < skip {
			if skip == 1 {
				t.Errorf("nothing is read of a key of %s that is there", key.Spec)
			}
			return
		}
		if err != nil && !backends.Doubtful(err) {
			t.Errorf("a key of %s that is there, when attribute %d is not read: %v", key.Spec, skip, err)
		}
	}
}

// TestImportInTrouble: a token that fails for a moment while RSA key material is tried has not
// said anything of the material.
func TestImportInTrouble(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		r := newImportRig(tok, asymmetric(t, open(t, tok)))
		pair := r.pair(t, backends.RSA2048)
		material := wrap(t, pair.public, "RSA_AES_KEY_WRAP_SHA_1", pkcs8(t, pkcs8Args[backends.RSA2048]...))
		const read = "C_GetAttributeValue"
		imports := func() (reads uint64, err error) {
			before := control.Calls(read)
			in := r.request(t, backends.RSA2048, backends.SignVerify, pair, "RSA_AES_KEY_WRAP_SHA_1", material)
			_, err = r.b.ImportKey(t.Context(), in)
			return control.Calls(read) - before, err
		}
		reads, err := imports()
		if err != nil || reads == 0 {
			t.Fatalf("%d attributes are read: %v", reads, err)
		}
		for skip := range reads {
			for _, rv := range []uint{p11.CKR_DEVICE_ERROR, p11.CKR_HOST_MEMORY} {
				control.SetRule(read, shim.Rule{Do: shim.Fail(rv), Skip: skip, Times: 1})
				_, err := imports()
				control.Clear(read)
				if code := backends.CodeOf(err); code == backends.UnfitMaterial || code == backends.InvalidMaterial {
					t.Errorf("good material when read %d of %d is %s: %v", skip+1, reads, p11.Error(rv), err)
				}
			}
		}
	})
}

// TestUnsafeImports: a token that begins to make readable keys of imports has the key of a customer's
// material destroyed before it is made of its components. If that fails, it is not made again, and
// what an attempt before it may make yet is told to the daemon.
func TestUnsafeImports(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		k := open(t, tok)
		s, a := newImportRig(tok, pkcs11.NewSymmetric(k)), newImportRig(tok, asymmetric(t, k))
		pair := s.pair(t, backends.RSA2048)
		const algorithm = "RSAES_OAEP_SHA_1" // is unwrapped in the token
		secret, private := randomOf(t, 32), pkcs8(t, pkcs8Args[backends.P256]...)
		control.Manners(shim.UnwrapsForgetfully)
		imports := func(r *importRig) (*backends.ImportKeyRequest, *backends.ImportKeyAnswer, error) {
			spec, usage, material := backends.SymmetricDefault, backends.EncryptDecrypt, secret
			if r == a {
				spec, usage, material = backends.P256, backends.SignVerify, private
			}
			in := r.request(t, spec, usage, pair, algorithm, wrap(t, pair.public, algorithm, material))
			out, err := r.b.ImportKey(t.Context(), in)
			return in, out, err
		}
		objects := map[*importRig]int{s: 1, a: 2}
		for r, want := range objects {
			holds := func(what string, key backends.Key) {
				t.Helper()
				control.ClearAll()
				out, err := r.b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: key})
				if err != nil || out.Objects != want {
					t.Errorf("%s of %s: %+v are destroyed, want %d: %v", what, key.Spec, out, want, err)
				}
			}
			in, out, err := imports(r)
			if err != nil || !out.ThroughPlugin || out.Unsure {
				t.Errorf("an import of %s that the token would make readable: %+v, %v", in.Key.Spec, out, err)
			}
			holds("an import", in.Key)

			control.SetRule("C_UnwrapKey", shim.Rule{Do: shim.Fail(p11.CKR_DEVICE_ERROR), Skip: 1, Times: 1})
			in, out, err = imports(r)
			if err != nil || !out.ThroughPlugin || !out.Unsure {
				t.Errorf("an import of %s after an attempt that was not answered: %+v, %v", in.Key.Spec, out, err)
			}
			holds("an import that was repeated", in.Key)

			for _, rv := range []uint{p11.CKR_DEVICE_ERROR, p11.CKR_HOST_MEMORY} {
				control.Set("C_DestroyObject", shim.Fail(rv))
				in, out, err = imports(r)
				if err == nil || !backends.Doubtful(err) {
					t.Errorf("an import of %s whose readable key stays: %+v, %v", in.Key.Spec, out, err)
				}
				holds("an import that fails", in.Key)
			}
		}
	})
}
