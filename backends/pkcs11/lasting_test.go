package pkcs11_test

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
	"cmkd/testenv/shim"
)

// TestNoSessionPairs: of a token that makes no pairs at all the mechanisms that it lists are
// not called missing, and those that it does not list are.
func TestNoSessionPairs(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		for _, function := range []string{"C_GenerateKeyPair", "C_CreateObject"} {
			control.Set(function, shim.Fail(p11.CKR_ATTRIBUTE_VALUE_INVALID))
		}
		b := asymmetric(t, open(t, tok))
		info, err := b.Info(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range []backends.KeySpec{backends.RSA2048, backends.P256, backends.P384, backends.Ed25519, backends.MLDSA44} {
			got := lacks(info, spec)
			listed := spec != backends.MLDSA44
			if got == "" || listed != strings.Contains(got, ", which it lists (C_GenerateKeyPair: CKR_ATTRIBUTE_VALUE_INVALID") {
				t.Errorf("%s: the token lacks %q", spec, got)
			}
			_, err := b.CreateKey(t.Context(), newPairRequest(spec))
			wantCode(t, string(spec), err, backends.Unsupported)
		}
		for fact, want := range map[string]string{
			"session-key-pairs":     "no: probed with token objects",
			"sign-ECDSA_SHA_256":    "no: CKM_ECDSA",
			"sign-ML_DSA_SHAKE_256": "no: CKM_ML_DSA",
		} {
			if got := info.Facts[fact]; got != want {
				t.Errorf("%s is %q, want %q", fact, got, want)
			}
		}
	})
}

// lacks is what the token lacks for keys of a spec.
func lacks(info *backends.InfoAnswer, spec backends.KeySpec) string {
	i := slices.IndexFunc(info.Specs, func(s backends.SpecInfo) bool { return s.Spec == spec })
	return info.Specs[i].Unsupported
}

func newPairRequest(spec backends.KeySpec) *backends.CreateKeyRequest {
	return &backends.CreateKeyRequest{Key: backends.Key{ID: randomID(), Spec: spec, Usage: backends.SignVerify}, Label: "cmkd:x:1"}
}

// TestLastingPairs: a token that makes pairs as token objects only, changes their attributes
// and lets none out, serves those that sign. The probe leaves nothing, and destroys what
// another one has left that was killed.
func TestLastingPairs(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		shimmed(t, tok).Manners(shim.LastingPairs, shim.ChangesPrivateKeys)
		for _, id := range []string{"cmkd-probe-pair", "cmkd-probe-secret-key", "cmkd-probe-public-key", "cmkd-probe-of-others"} {
			tok.Run(t, "pkcs11-tool", "--module", tok.Module, "--token-label", tok.Label, "--login", "--pin", tok.PIN,
				"--keygen", "--key-type", "AES:32", "--id", hex.EncodeToString([]byte(id)))
		}
		b := asymmetric(t, open(t, tok))
		ctx, s := tok.Objects(t)
		if n := len(allObjects(t, ctx, s)); n != 1 {
			t.Errorf("after the probe the token has %d objects, want that of others", n)
		}
		info, err := b.Info(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for fact, want := range map[string]string{
			"session-key-pairs":    "no: probed with token objects",
			"private-keys-decrypt": "yes, whatever the template says: never used",
			"changes-private-keys": "to EXTRACTABLE, not SENSITIVE, EXTRACTABLE and not SENSITIVE: nothing comes out all the same",
			"sign-ECDSA_SHA_384":   "yes", "sign-RSASSA_PSS_SHA_512": "yes",
		} {
			if got := info.Facts[fact]; got != want {
				t.Errorf("%s is %q, want %q", fact, got, want)
			}
		}
		for _, spec := range []backends.KeySpec{backends.P256, backends.P384, backends.RSA2048} {
			key, _ := newPair(t, b, spec, backends.SignVerify)
			signVerify(t, b, key, firstAlgorithm[spec])
			if _, err := b.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: key}); err != nil {
				t.Errorf("%s: %v", spec, err)
			}
			_, err := b.Decrypt(t.Context(), &backends.DecryptRequest{Key: key, Algorithm: "RSAES_OAEP_SHA_1", Sealed: backends.Sealed{Ciphertext: make([]byte, 256)}})
			wantCode(t, "decrypting with a key that the token made able to", err, backends.InvalidRequest)
		}
		if got := lacks(info, backends.RSA3072); !strings.Contains(got, "CKR_ATTRIBUTE_VALUE_INVALID") {
			t.Errorf("RSA_3072: the token lacks %q", got)
		}
		_, err = b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: backends.Key{ID: randomID(), Spec: backends.RSA2048, Usage: backends.EncryptDecrypt}, Label: "cmkd:x:1"})
		wantCode(t, "a key that decrypts", err, backends.Unsupported)
	})
}

// TestChangedKeysStay: a token that makes pairs as token objects only is refused if a private key comes
// out, as it was made or after its attributes were changed. Nothing of the probe is left.
func TestChangedKeysStay(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		for name, manners := range map[string][]shim.Manner{
			"reads them":              {shim.ReadsPrivateKeys},
			"wraps them":              {shim.WrapsPrivateKeys},
			"copies them":             {shim.CopiesPrivateKeys},
			"reads changed ones":      {shim.ChangesPrivateKeys, shim.ReadsChangedKeys},
			"wraps changed ones":      {shim.ChangesPrivateKeys, shim.WrapsChangedKeys},
			"copies changed ones":     {shim.ChangesPrivateKeys, shim.CopiesChangedKeys},
			"wraps under an RSA key":  {shim.WrapsUnderRSA, shim.NoSecretKeys},
			"wraps changed under RSA": {shim.ChangesPrivateKeys, shim.WrapsChangedKeys, shim.NoSecretKeys},
		} {
			control.Manners(append(manners, shim.LastingPairs)...)
			k, err := pkcs11.Open(t.Context(), config(tok))
			if err != nil {
				if backends.CodeOf(err) != backends.KeyUnsafe {
					t.Errorf("a token that %s: %v", name, err)
				}
				continue
			}
			b, err := pkcs11.NewAsymmetric(t.Context(), k)
			wantCode(t, "a token that "+name, err, backends.KeyUnsafe)
			if err == nil {
				k = b.Token
			}
			if err := k.Close(); err != nil {
				t.Error(err)
			}
		}
		control.Manners()
		open(t, tok)
		ctx, s := tok.Objects(t)
		if n := len(allObjects(t, ctx, s)); n != 0 {
			t.Errorf("the probes have left %d objects", n)
		}
	})
}

// TestSpent: a process that has used up what the token has room for says so, and not that the
// token is lost. What it has loaded goes on. So does one that has destroyed a key.
func TestSpent(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		shimmed(t, tok).Manners(shim.LastingPairs, shim.FewLoadedKeys)
		b := asymmetric(t, open(t, tok))
		var made []backends.Key
		const room = 12
		for range room {
			key, _ := newPair(t, b, backends.P256, backends.SignVerify)
			made = append(made, key)
		}
		in := newPairRequest(backends.P256)
		_, err := b.CreateKey(t.Context(), in)
		wantCode(t, "a pair too many", err, backends.Spent)
		for _, key := range made {
			signVerify(t, b, key, "ECDSA_SHA_256")
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = asymmetric(t, open(t, tok)) // as the next process
		if _, err := b.CreateKey(t.Context(), in); err != nil {
			t.Errorf("a pair in the next process: %v", err)
		}
		for _, key := range made[:room-1] {
			signVerify(t, b, key, "ECDSA_SHA_256")
		}
		_, err = b.Sign(t.Context(), &backends.SignRequest{Key: made[room-1], Algorithm: "ECDSA_SHA_256", Type: backends.Digest, Message: make([]byte, 32)})
		wantCode(t, "signing with a key too many", err, backends.Spent)
		if _, err := b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: made[0]}); err != nil {
			t.Error(err)
		}
		_, err = b.CreateKey(t.Context(), newPairRequest(backends.P256))
		wantCode(t, "a pair after one was destroyed", err, backends.Spent)
	})
}

// TestKeyInUse: tpm2-pkcs11 does not destroy a key that failed to sign before the process ends.
// A key that another process would not destroy either costs none.
func TestKeyInUse(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		control.Manners(shim.LastingPairs)
		b := asymmetric(t, open(t, tok))
		key, _ := newPair(t, b, backends.RSA2048, backends.SignVerify)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = asymmetric(t, open(t, tok)) // as the next process
		destroy := func() error {
			_, err := b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: key})
			return err
		}
		sign := func() error {
			_, err := b.Sign(t.Context(), &backends.SignRequest{Key: key, Algorithm: "RSASSA_PSS_SHA_256", Type: backends.Raw, Message: []byte("x")})
			return err
		}
		control.Set("C_Sign", shim.Fail(p11.CKR_OK)) // as by another key
		wantCode(t, "a signature that is none of the key", sign(), backends.Lost)
		control.Clear("C_Sign")
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = asymmetric(t, open(t, tok))
		control.Set("C_DestroyObject", shim.Fail(p11.CKR_FUNCTION_FAILED))
		wantCode(t, "destroying a key that was not used", destroy(), backends.Internal)
		control.Set("C_Sign", shim.Fail(p11.CKR_FUNCTION_FAILED))
		wantCode(t, "signing", sign(), backends.Internal)
		wantCode(t, "destroying a key that failed to sign", destroy(), backends.Spent)
		control.ClearAll()
		wantCode(t, "destroying", destroy(), "")
	})
}
