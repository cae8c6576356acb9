package pkcs11_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"cmkd/backends"
	"cmkd/backends/backendstest"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
	"cmkd/testenv/rsahsm"
)

// onHardware gives the token the RSA mechanisms of hardware.
func onHardware(t *testing.T, tok *testenv.Token) {
	t.Helper()
	path, env := rsahsm.New(t, tok.Module)
	setenv(t, env)
	tok.Module = path
}

// setenv sets what a module reads from its environment, in the process of an
// isolated test.
func setenv(t *testing.T, env []string) {
	t.Helper()
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if err := os.Setenv(name, value); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHardware runs the asymmetric backend where the token removes OAEP with
// every hash.
func TestHardware(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		onHardware(t, tok)
		b := asymmetric(t, open(t, tok))
		info, err := b.Info(t.Context(), &backends.InfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for fact, want := range map[string]string{
			"oaep-sha1-decrypt": "yes", "oaep-sha256-decrypt": "yes", "unwrapped-length": "yes",
			"import-oaep-sha1": "in the token", "import-oaep-sha256": "in the token",
			"import-rsa-aes-sha1": "in the token", "import-rsa-aes-sha256": "in the token",
		} {
			if info.Facts[fact] != want {
				t.Errorf("%s is %q, want %q", fact, info.Facts[fact], want)
			}
		}
		r := rig(tok, func(k *pkcs11.Token) backends.Backend { return asymmetric(t, k) })
		r.Plant = nil // by the manners of SoftHSM2
		backendstest.RunRSA(t, r)
	})
}

// TestDataKeysInHardware runs the symmetric backend where the token wraps to
// recipients of every kind, also as CMS.
func TestDataKeysInHardware(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		onHardware(t, tok)
		b := pkcs11.NewSymmetric(open(t, tok))
		info, err := b.Info(t.Context(), &backends.InfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, fact := range []string{"oaep-sha1", "oaep-sha256", "wrap-aes-cbc-pad"} {
			if info.Facts[fact] != "yes" {
				t.Errorf("%s is %q", fact, info.Facts[fact])
			}
		}
		backendstest.RunRecipients(t, rig(tok, func(k *pkcs11.Token) backends.Backend { return pkcs11.NewSymmetric(k) }))
	})
}

// TestImportInHardware imports where nothing passes through this process.
func TestImportInHardware(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		onHardware(t, tok)
		k := open(t, tok)
		private := map[backends.KeySpec][]byte{}
		for _, spec := range []backends.KeySpec{backends.RSA2048, backends.P256, backends.P521, backends.Secp256k1} {
			private[spec] = pkcs8(t, pkcs8Args[spec]...)
		}
		symmetric, hmac, pairs := pkcs11.NewSymmetric(k), pkcs11.NewHMAC(k), asymmetric(t, k)
		rigs := map[importer]*importRig{}
		for _, b := range []importer{symmetric, hmac, pairs} {
			rigs[b] = newImportRig(tok, b)
			rigs[b].tokenOnly = true
		}
		for _, c := range []struct {
			b        importer
			spec     backends.KeySpec
			usage    backends.Usage
			material []byte
			bad      [][]byte
		}{
			{symmetric, backends.SymmetricDefault, backends.EncryptDecrypt, randomOf(t, 32), [][]byte{randomOf(t, 16), randomOf(t, 31), randomOf(t, 33)}},
			{hmac, backends.HMAC224, backends.GenerateVerifyMAC, randomOf(t, 28), [][]byte{randomOf(t, 27), randomOf(t, 32)}},
			{hmac, backends.HMAC512, backends.GenerateVerifyMAC, randomOf(t, 64), [][]byte{randomOf(t, 63), randomOf(t, 65)}},
			{pairs, backends.RSA2048, backends.SignVerify, private[backends.RSA2048], [][]byte{private[backends.P256], randomOf(t, 1200)}},
			{pairs, backends.RSA2048, backends.EncryptDecrypt, private[backends.RSA2048], [][]byte{damaged(t, private[backends.RSA2048])["another private exponent and others"]}},
			{pairs, backends.P256, backends.SignVerify, private[backends.P256], [][]byte{private[backends.Secp256k1], private[backends.P521]}},
			{pairs, backends.P521, backends.KeyAgreement, private[backends.P521], [][]byte{private[backends.P256]}},
			{pairs, backends.Secp256k1, backends.SignVerify, private[backends.Secp256k1], [][]byte{private[backends.P256]}},
		} {
			t.Run(string(c.spec)+"/"+string(c.usage), func(t *testing.T) {
				r := rigs[c.b]
				r.imports(t, c.spec, c.usage, c.material, func(t *testing.T, _ backends.Key, public []byte) {
					if c.b == importer(pairs) && string(public) != string(opensslPublic(t, c.material)) {
						t.Errorf("the public key is another's: %x", public)
					}
				})
				bad := map[string][]byte{}
				for i, b := range c.bad {
					bad[fmt.Sprintf("bad material %d", i)] = b
				}
				r.refusals(t, c.spec, c.usage, c.material, bad)
			})
		}
		// Nobody can know the public key of an Ed25519 key that the token
		// does not tell, and the wrapping pair does not decrypt.
		r := rigs[pairs]
		pair := r.pair(t, backends.RSA2048)
		in := r.request(t, backends.Ed25519, backends.SignVerify, pair, "RSAES_OAEP_SHA_256",
			wrap(t, pair.public, "RSAES_OAEP_SHA_256", pkcs8(t, pkcs8Args[backends.Ed25519]...)))
		r.refused(t, "an Ed25519 key", in, backends.Unsupported)
	})
}
