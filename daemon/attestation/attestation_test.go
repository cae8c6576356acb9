package attestation_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"cmkd/daemon/attestation"
	"cmkd/testenv/nitro"
)

// now is when the documents are looked at.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var recipient = sync.OnceValue(func() []byte { return rsaKey(2048) })

func rsaKey(bits int) []byte {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return spki(&key.PublicKey)
}

func spki(key any) []byte {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic(err)
	}
	return der
}

func TestVerify(t *testing.T) {
	t.Parallel()
	a := nitro.NewAuthority(t, now)
	v := attestation.NewVerifier([]*x509.Certificate{a.Root})
	for name, edit := range map[string]func(*nitro.Draft){
		"as the hypervisor makes it": func(*nitro.Draft) {},
		"tagged":                     func(d *nitro.Draft) { d.Tagged = true },
		"with user data":             func(d *nitro.Draft) { d.Payload["user_data"], d.Payload["nonce"] = make([]byte, 512), []byte("n") },
		"with a field of the future": func(d *nitro.Draft) { d.Payload["future"] = 1 },
		"as before August 2025":      func(d *nitro.Draft) { d.Indefinite = false },
		"streamed":                   func(d *nitro.Draft) { d.Streamed = true },
		"streamed and tagged":        func(d *nitro.Draft) { d.Streamed, d.Tagged = true, true },
		"with a key identifier":      func(d *nitro.Draft) { d.Unprotected = map[int]any{4: []byte("k")} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := v.Verify(a.Document(t, recipient(), edit), now)
			if err != nil {
				t.Fatal(err)
			}
			if d.Platform != attestation.NitroEnclave || !strings.HasPrefix(d.ModuleID, "i-") || !d.Timestamp.Equal(now) ||
				!bytes.Equal(d.PublicKey, recipient()) || len(d.PCRs) != 6 || !bytes.Equal(d.PCRs[8], nitro.PCR(8)) {
				t.Errorf("it says %+v", d)
			}
		})
	}
	t.Run("NitroTPM", func(t *testing.T) {
		t.Parallel()
		d, err := v.Verify(a.Document(t, recipient(), func(d *nitro.Draft) {
			d.Payload["nitrotpm_pcrs"] = d.Payload["pcrs"]
			delete(d.Payload, "pcrs")
		}), now)
		if err != nil || d.Platform != attestation.NitroTPM || !bytes.Equal(d.PCRs[4], nitro.PCR(4)) {
			t.Errorf("it says %+v, %v", d, err)
		}
	})
}

// TestVerifyRefuses changes one thing each.
func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	a, stranger := nitro.NewAuthority(t, now), nitro.NewAuthority(t, now)
	v := attestation.NewVerifier([]*x509.Certificate{a.Root})
	set := func(name string, value any) func(*nitro.Draft) {
		return func(d *nitro.Draft) { d.Payload[name] = value }
	}
	extra := func(pairs string) func(*nitro.Draft) {
		return func(d *nitro.Draft) { d.Extra = []byte(pairs) }
	}
	pcrs := func(values map[int][]byte) func(*nitro.Draft) { return set("pcrs", values) }
	for name, c := range map[string]struct {
		edit func(*nitro.Draft)
		want error
	}{
		"leaf expired":     {func(d *nitro.Draft) { d.Leaf.NotAfter = now.Add(-time.Second) }, attestation.ErrUntrusted},
		"leaf not valid":   {func(d *nitro.Draft) { d.Leaf.NotBefore = now.Add(time.Second) }, attestation.ErrUntrusted},
		"issuer expired":   {func(d *nitro.Draft) { d.Intermediate.NotAfter = now.Add(-time.Second) }, attestation.ErrUntrusted},
		"leaf usage":       {func(d *nitro.Draft) { d.Leaf.KeyUsage = x509.KeyUsageKeyAgreement }, attestation.ErrUntrusted},
		"leaf without use": {func(d *nitro.Draft) { d.Leaf.KeyUsage = 0 }, attestation.ErrUntrusted},
		"leaf of a CA": {func(d *nitro.Draft) {
			d.Leaf.IsCA, d.Leaf.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
		}, attestation.ErrUntrusted},
		"issuer usage":       {func(d *nitro.Draft) { d.Intermediate.KeyUsage = x509.KeyUsageDigitalSignature }, attestation.ErrUntrusted},
		"issuer without use": {func(d *nitro.Draft) { d.Intermediate.KeyUsage = 0 }, attestation.ErrUntrusted},
		"issuer no CA":       {func(d *nitro.Draft) { d.Intermediate.IsCA = false }, attestation.ErrUntrusted},
		"another root":       {set("cabundle", [][]byte{stranger.Root.Raw}), attestation.ErrUntrusted},
		"no certificate":     {set("certificate", []byte("no certificate")), attestation.ErrUntrusted},
		"no authority":       {set("cabundle", [][]byte{[]byte("none")}), attestation.ErrUntrusted},
		"forged":             {func(d *nitro.Draft) { d.Forged = true }, attestation.ErrSignature},
		"another curve":      {func(d *nitro.Draft) { d.Curve = elliptic.P256() }, attestation.ErrSignature},
		"ES256":              {func(d *nitro.Draft) { d.Protected[1] = -7 }, attestation.ErrMalformed},
		"no algorithm":       {func(d *nitro.Draft) { delete(d.Protected, 1) }, attestation.ErrMalformed},
		"another header":     {func(d *nitro.Draft) { d.Protected[3] = "text/plain" }, attestation.ErrMalformed},
		"no module":          {set("module_id", ""), attestation.ErrMalformed},
		"null module":        {set("module_id", nil), attestation.ErrMalformed},
		"SHA256":             {set("digest", "SHA256"), attestation.ErrMalformed},
		"no time":            {set("timestamp", 0), attestation.ErrMalformed},
		"negative time":      {set("timestamp", -1), attestation.ErrMalformed},
		"endless time":       {set("timestamp", uint64(1)<<63), attestation.ErrMalformed},
		"no PCRs":            {pcrs(nil), attestation.ErrMalformed},
		"PCR 32":             {pcrs(map[int][]byte{32: nitro.PCR(0)}), attestation.ErrMalformed},
		"PCR -1":             {pcrs(map[int][]byte{-1: nitro.PCR(0)}), attestation.ErrMalformed},
		"short PCR":          {pcrs(map[int][]byte{0: make([]byte, 47)}), attestation.ErrMalformed},
		"PCRs of both":       {set("nitrotpm_pcrs", map[int][]byte{0: nitro.PCR(0)}), attestation.ErrMalformed},
		"PCRs by name":       {set("pcrs", map[string][]byte{"0": nitro.PCR(0)}), attestation.ErrMalformed},
		"no cabundle":        {set("cabundle", [][]byte{}), attestation.ErrMalformed},
		"empty authority":    {set("cabundle", [][]byte{{}}), attestation.ErrMalformed},
		"null certificate":   {set("certificate", nil), attestation.ErrMalformed},
		"long certificate":   {set("certificate", make([]byte, 1025)), attestation.ErrMalformed},
		"long authority":     {set("cabundle", [][]byte{make([]byte, 1025)}), attestation.ErrMalformed},
		"no public key":      {set("public_key", nil), attestation.ErrMalformed},
		"no key at all":      {set("public_key", []byte("no key")), attestation.ErrMalformed},
		"an EC key":          {set("public_key", spki(a.Root.PublicKey)), attestation.ErrMalformed},
		"a long RSA key":     {set("public_key", spki(longKey())), attestation.ErrMalformed},
		"an exponent of 1":   {set("public_key", spki(&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 2047, 1), E: 1})), attestation.ErrMalformed},
		"a long exponent":    {set("public_key", spki(&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 2047, 1), E: 1<<31 + 1})), attestation.ErrMalformed},
		"a long nonce":       {set("nonce", make([]byte, 1025)), attestation.ErrMalformed},
		"long user data":     {set("user_data", make([]byte, 1025)), attestation.ErrMalformed},
		"a long payload":     {set("future", make([]byte, 16<<10)), attestation.ErrMalformed},
		"an endless one":     {set("future", make([]byte, 1<<20)), attestation.ErrMalformed},
		"a second module":    {extra("\x69module_id\x61x"), attestation.ErrMalformed},
		"a second unknown":   {extra("\x61x\x01\x61x\x01"), attestation.ErrMalformed},
		"a second PCR":       {extra("\x6dnitrotpm_pcrs\xbf\x00\x41\x00\x00\x41\x00\xff"), attestation.ErrMalformed},
		"a second PCR, long": {extra("\x6dnitrotpm_pcrs\xbf\x00\x41\x00\x18\x00\x41\x00\xff"), attestation.ErrMalformed},
		"a key alone":        {extra("\x61x"), attestation.ErrMalformed},
		"a break too many":   {extra("\xff"), attestation.ErrMalformed},
		"after its end":      {extra("\xff\x00"), attestation.ErrMalformed},
		"a float as time":    {set("timestamp", 1772366400000.5), attestation.ErrMalformed},
		"a whole float":      {set("timestamp", 1772366400000.0), attestation.ErrMalformed},
		"a float as index":   {set("pcrs", map[float64][]byte{0: nitro.PCR(0)}), attestation.ErrMalformed},
		"streamed, nested": {func(d *nitro.Draft) {
			d.Streamed, d.Payload["future"] = true, []any{[]any{[]any{[]any{[]any{}}}}}
		}, attestation.ErrMalformed},
		"alg in both": {func(d *nitro.Draft) { d.Unprotected = map[int]any{1: -35} }, attestation.ErrMalformed},
		"alg outside": {func(d *nitro.Draft) {
			d.Unprotected = map[int]any{1: -35}
			delete(d.Protected, 1)
		}, attestation.ErrMalformed},
		"nested": {set("future", []any{[]any{[]any{[]any{[]any{}}}}}), attestation.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if d, err := v.Verify(a.Document(t, recipient(), c.edit), now); !errors.Is(err, c.want) {
				t.Errorf("it gives %+v, %v, want an error that %v", d, err, c.want)
			}
		})
	}
	good := a.Document(t, recipient())
	for name, d := range map[string][]byte{
		"nothing": nil, "a key": recipient(), "a tag": {0xd2}, "another tag": append([]byte{0xd1}, good...),
		"two tags": append([]byte{0xd2, 0xd2}, good...), "an array of five": append([]byte{0x85}, append(bytes.Clone(good[1:]), 0)...),
		"a map": append([]byte{0xa4}, good[1:]...), "an endless array": append([]byte{0x9f}, good[1:]...),
		"cut": good[:len(good)-1], "trailing": append(bytes.Clone(good), 0),
	} {
		if _, err := v.Verify(d, now); !errors.Is(err, attestation.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := v.Verify(stranger.Document(t, recipient()), now); !errors.Is(err, attestation.ErrUntrusted) {
		t.Errorf("of another authority: %v", err)
	}
	if _, err := v.Verify(good, now.AddDate(30, 0, 0)); !errors.Is(err, attestation.ErrUntrusted) {
		t.Errorf("when all is over: %v", err)
	}
}

// longKey is a key of 4104 bits; nothing is ever decrypted with it.
func longKey() *rsa.PublicKey {
	n := new(big.Int).Lsh(big.NewInt(1), 4103)
	return &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537}
}

// TestCheckPublicKey: a recipient's key is one to which everything can be encrypted.
func TestCheckPublicKey(t *testing.T) {
	t.Parallel()
	n := new(big.Int).SetBit(big.NewInt(1), 2047, 1)
	of := func(n *big.Int, e int) []byte { return spki(&rsa.PublicKey{N: n, E: e}) }
	for name, c := range map[string]struct {
		der  []byte
		want string
	}{
		"good": {recipient(), ""}, "the largest exponent": {of(n, 1<<31-1), ""},
		"nothing": {nil, "SubjectPublicKeyInfo"}, "more": {append(bytes.Clone(recipient()), 0), "SubjectPublicKeyInfo"},
		"a negative modulus": {of(new(big.Int).Neg(n), 65537), "SubjectPublicKeyInfo"}, "modulus 0": {of(new(big.Int), 65537), "SubjectPublicKeyInfo"},
		"exponent 0": {of(n, 0), "SubjectPublicKeyInfo"}, "a negative exponent": {of(n, -65537), "SubjectPublicKeyInfo"},
		"a small modulus": {of(new(big.Int).Rsh(n, 1), 65537), "2048 to 4096 bits"}, "a huge modulus": {spki(longKey()), "2048 to 4096 bits"},
		"an even modulus": {of(new(big.Int).Add(n, big.NewInt(1)), 65537), "2048 to 4096 bits"},
		"exponent 1":      {of(n, 1), "exponent"}, "exponent 3": {of(n, 3), "exponent"}, "an even exponent": {of(n, 65538), "exponent"},
		"2^31+1": {of(n, 1<<31+1), "exponent"}, "2^62+1": {of(n, 1<<62+1), "exponent"},
	} {
		err := attestation.CheckPublicKey(c.der)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestVerifyAltered: wherever a bit is changed, the document is refused.
func TestVerifyAltered(t *testing.T) {
	t.Parallel()
	a := nitro.NewAuthority(t, now)
	v := attestation.NewVerifier([]*x509.Certificate{a.Root})
	good := a.Document(t, recipient())
	for i := 0; i < len(good); i += 11 {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		if _, err := v.Verify(bad, now); err == nil {
			t.Errorf("byte %d of %d may change", i, len(good))
		}
	}
}

func TestParseRoots(t *testing.T) {
	t.Parallel()
	a, b := nitro.NewAuthority(t, now), nitro.NewAuthority(t, now)
	if roots, err := attestation.ParseRoots(append(a.PEM(), b.PEM()...)); err != nil || len(roots) != 2 {
		t.Errorf("two roots: %d, %v", len(roots), err)
	}
	for name, text := range map[string][]byte{
		"nothing":   nil,
		"no PEM":    a.Root.Raw,
		"a key":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: recipient()}),
		"no X.509":  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: recipient()}),
		"two, once": append(a.PEM(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"})...),
	} {
		if _, err := attestation.ParseRoots(text); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzVerify: no document makes the verifier crash, and what passes is complete.
func FuzzVerify(f *testing.F) {
	a := nitro.NewAuthority(f, now)
	v := attestation.NewVerifier([]*x509.Certificate{a.Root})
	good := a.Document(f, recipient())
	f.Add(good)
	f.Add(a.Document(f, recipient(), func(d *nitro.Draft) { d.Tagged = true }))
	f.Add(a.Document(f, recipient(), func(d *nitro.Draft) { d.Streamed = true }))
	f.Fuzz(func(t *testing.T, document []byte) {
		d, err := v.Verify(document, now)
		if err == nil && (d.ModuleID == "" || len(d.PCRs) == 0 || len(d.PublicKey) == 0) {
			t.Errorf("it gives %+v", d)
		}
	})
}
