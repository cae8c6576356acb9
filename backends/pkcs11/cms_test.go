package pkcs11

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	encodingasn1 "encoding/asn1"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"cmkd/backends/pkcs11/internal/token"
)

// TestCMSAsRecorded compares what goes to an attested recipient with what AWS KMS
// sends, element by element: the parser of AWS's SDK for C takes nothing else.
func TestCMSAsRecorded(t *testing.T) {
	t.Parallel()
	recorded, err := os.ReadFile(filepath.Join("testdata", "kms-ciphertext-for-recipient.ber"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	h := token.OAEPHashes[cmsRecipientAlgorithm]
	sealed, err := sealCMS(&key.PublicKey, h, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	want, got := elements(t, recorded), elements(t, sealed)
	if !slices.Equal(got, want) {
		t.Errorf("the elements are\n%q\nand those of AWS\n%q", got, want)
	}
}

// TestCMSOpens opens answers of all lengths, and with keys of all lengths, with
// openssl.
func TestCMSOpens(t *testing.T) {
	t.Parallel()
	for bits, lengths := range map[int][]int{2048: {1, 15, 16, 32, 127, 255, 1024, 4096}, 4096: {32, 2400}} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		encoded, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, n := range lengths {
			plaintext := make([]byte, n)
			_, _ = rand.Read(plaintext) // never fails: crypto/rand
			sealed, err := sealCMS(&key.PublicKey, token.OAEPHashes[cmsRecipientAlgorithm], plaintext)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "openssl", "cms", "-decrypt", "-inform", "DER", "-inkey", file)
			cmd.Stdin = bytes.NewReader(sealed)
			if got, err := cmd.Output(); err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%d bytes under RSA-%d: openssl gives %d bytes, %v", n, bits, len(got), err)
			}
		}
	}
}

// elements are the elements of BER in their order: the tag of each, "*" if its
// length is indefinite, and object identifiers and integers whole. Elements of
// other kinds differ in their contents.
func elements(t *testing.T, ber []byte) []string {
	t.Helper()
	var list []string
	for len(ber) > 0 {
		tag := ber[0]
		switch {
		case tag&0x20 != 0: // constructed: what is in it comes next
			head, indefinite := 2, ""
			switch n := ber[1]; {
			case n == 0x80:
				indefinite = "*"
			case n > 0x80:
				head += int(n & 0x7f)
			}
			list, ber = append(list, fmt.Sprintf("%x%s", tag, indefinite)), ber[head:]
		case tag == 0: // end-of-contents
			list, ber = append(list, "end"), ber[2:]
		default:
			var v encodingasn1.RawValue
			rest, err := encodingasn1.Unmarshal(ber, &v)
			if err != nil {
				t.Fatalf("%v in %x", err, ber)
			}
			text := fmt.Sprintf("%x", tag)
			if tag == encodingasn1.TagOID || tag == encodingasn1.TagInteger {
				text = fmt.Sprintf("%x", v.FullBytes)
			}
			list, ber = append(list, text), rest
		}
	}
	return list
}
