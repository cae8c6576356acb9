package vectors

import (
	"encoding/asn1"
	"encoding/pem"
	"os"
	"os/exec"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/testenv"
)

// TestSignatures: ECDSA and Ed25519 with the public keys of the vectors, whose
// private keys nobody knows: the public key object of an imported pair is
// replaced.
func TestSignatures(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, signatures)
}

func signatures(t *testing.T, tok *testenv.Token) {
	r := start(t, "asymmetric", tok)
	ctx, s := logIn(t, tok)
	for _, c := range []struct {
		name      string
		spec      backends.KeySpec
		algorithm backends.Algorithm
		atLeast   int
	}{
		{"ecdsa_secp256r1_sha256", backends.P256, "ECDSA_SHA_256", 400},
		{"ecdsa_secp384r1_sha384", backends.P384, "ECDSA_SHA_384", 400},
		{"ecdsa_secp521r1_sha512", backends.P521, "ECDSA_SHA_512", 400},
		{"ecdsa_secp256k1_sha256", backends.Secp256k1, "ECDSA_SHA_256", 400},
		{"ed25519", backends.Ed25519, "ED25519_SHA_512", 140},
	} {
		groups := load(t, c.name).Groups
		ders := make([][]byte, len(groups))
		for i, g := range groups {
			ders[i] = g.PublicKeyDer
		}
		keys := r.withPublicKeys(t, ctx, s, c.spec, ders)
		before := r.right
		for i, g := range groups {
			for _, v := range g.Tests {
				answer, err := r.Verify(t.Context(), &backends.VerifyRequest{
					Key: keys[i], Algorithm: c.algorithm, Type: backends.Raw, Message: v.Msg, Signature: v.Sig,
				})
				r.judge(t, c.name, &v, err == nil && answer.Valid, err)
			}
		}
		if n := r.right - before; n < c.atLeast {
			t.Errorf("%s: %d right answers, want %d", c.name, n, c.atLeast)
		}
		for _, k := range keys {
			r.drop(t, k)
		}
	}
	r.report(t, 1900)
}

// withPublicKeys makes a pair for each SubjectPublicKeyInfo, with it as the
// public key: a pair is imported, and then its public key object is replaced
// behind the plugin's back, which is started again to forget what it saw.
func (r *rig) withPublicKeys(t *testing.T, ctx *p11.Ctx, s p11.SessionHandle, spec backends.KeySpec, public [][]byte) []backends.Key {
	t.Helper()
	material := anyKey(t, spec)
	keys := make([]backends.Key, len(public))
	for i, der := range public {
		keys[i] = r.imported(t, spec, backends.SignVerify, material)
		find := []*p11.Attribute{
			p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY),
			p11.NewAttribute(p11.CKA_ID, keys[i].ID[:]),
		}
		if err := ctx.FindObjectsInit(s, find); err != nil {
			t.Fatal(err)
		}
		found, _, err := ctx.FindObjects(s, 2)
		if err != nil || len(found) != 1 {
			t.Fatalf("%d public keys of a pair: %v", len(found), err)
		}
		if err := ctx.FindObjectsFinal(s); err != nil {
			t.Fatal(err)
		}
		if err := ctx.DestroyObject(s, found[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := ctx.CreateObject(s, append(find, publicTemplate(t, spec, der)...)); err != nil {
			t.Fatalf("planting a public key: %v", err)
		}
	}
	if err := r.Reload(t.Context(), r.spec); err != nil {
		t.Fatal(err)
	}
	return keys
}

// publicTemplate is what a public key has in the token (PKCS#11 3.0, sections
// 2.3.3 and 2.3.10; the curve's name as SoftHSM2 has it).
func publicTemplate(t testing.TB, spec backends.KeySpec, der []byte) []*p11.Attribute {
	t.Helper()
	var info struct {
		Algorithm struct {
			OID    asn1.ObjectIdentifier
			Params asn1.RawValue `asn1:"optional"`
		}
		Key asn1.BitString
	}
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 {
		t.Fatalf("a public key of the vectors: %v", err)
	}
	keyType, curve := uint(p11.CKK_EC), info.Algorithm.Params.FullBytes
	if spec == backends.Ed25519 {
		keyType, curve = 0x40, append([]byte{0x13, 12}, "edwards25519"...) // CKK_EC_EDWARDS
	}
	point, err := asn1.Marshal(info.Key.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return []*p11.Attribute{
		p11.NewAttribute(p11.CKA_KEY_TYPE, keyType),
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_VERIFY, true),
		p11.NewAttribute(p11.CKA_EC_PARAMS, curve),
		p11.NewAttribute(p11.CKA_EC_POINT, point),
	}
}

// anyKey is a new private key of the spec, as material for an import.
func anyKey(t testing.TB, spec backends.KeySpec) []byte {
	t.Helper()
	args := []string{"-algorithm", "ED25519"}
	if spec != backends.Ed25519 {
		curve := map[backends.KeySpec]string{
			backends.P256: "P-256", backends.P384: "P-384", backends.P521: "P-521", backends.Secp256k1: "secp256k1",
		}[spec]
		args = []string{"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:" + curve}
	}
	text, err := exec.CommandContext(t.Context(), "openssl", append([]string{"genpkey"}, args...)...).Output()
	if err != nil {
		t.Fatalf("openssl genpkey: %v", err)
	}
	block, _ := pem.Decode(text) // PKCS #8; as DER openssl writes another form
	return block.Bytes
}

// logIn initialises the module in this process and logs in, for as long as the
// test runs.
func logIn(t testing.TB, tok *testenv.Token) (*p11.Ctx, p11.SessionHandle) {
	t.Helper()
	ctx := p11.New(tok.Module)
	if ctx == nil {
		t.Fatalf("loading %s", tok.Module)
	}
	if err := ctx.Initialize(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ctx.Finalize() })
	pin, err := os.ReadFile(tok.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	ctx, s := tok.Objects(t)
	if err := ctx.Login(s, p11.CKU_USER, strings.TrimSpace(string(pin))); err != nil {
		t.Fatal(err)
	}
	return ctx, s
}
