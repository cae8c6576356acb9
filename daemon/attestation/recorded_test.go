package attestation_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmkd/daemon/attestation"
)

// rootDigest is what AWS publishes of its root certificate.
const rootDigest = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"

// TestRecorded verifies documents of the real hypervisor, from before and after
// August 2025, under the real root.
func TestRecorded(t *testing.T) {
	t.Parallel()
	roots, err := attestation.ParseRoots(recorded(t, "aws-nitro-root-g1.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(roots[0].Raw); hex.EncodeToString(sum[:]) != rootDigest {
		t.Fatalf("the root's digest is %x", sum)
	}
	v := attestation.NewVerifier(roots)
	for name, c := range map[string]struct {
		made   string
		module string
		pcrs   int
		zero   bool // an enclave in debug mode: PCR 0 is zero
	}{
		"definite.cose":              {"2024-11-14T23:46:29.450Z", "i-0f73a4b4cb74cc9f2-enc01", 16, true},
		"indefinite-2025-11-10.cose": {"2025-11-10T17:20:10.812Z", "i-06fb0bf4e70d5129f-enc01", 17, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			document := recorded(t, name)
			made, err := time.Parse(time.RFC3339, c.made)
			if err != nil {
				t.Fatal(err)
			}
			d, err := v.VerifyRecorded(document, made)
			if err != nil {
				t.Fatal(err)
			}
			if d.Platform != attestation.NitroEnclave || !strings.HasPrefix(d.ModuleID, c.module) || !d.Timestamp.Equal(made) ||
				len(d.PCRs) != c.pcrs || len(d.PCRs[0]) != 48 || (strings.Trim(string(d.PCRs[0]), "\x00") == "") != c.zero {
				t.Errorf("it says %+v", d)
			}
			if _, err := v.Verify(document, made); !errors.Is(err, attestation.ErrMalformed) || !strings.Contains(err.Error(), "public_key") {
				t.Errorf("for KMS, without a public key: %v", err)
			}
			if _, err := v.VerifyRecorded(document, made.AddDate(0, 0, 1)); !errors.Is(err, attestation.ErrUntrusted) {
				t.Errorf("a day later: %v", err)
			}
			document[len(document)-1] ^= 1
			if _, err := v.VerifyRecorded(document, made); !errors.Is(err, attestation.ErrSignature) {
				t.Errorf("altered: %v", err)
			}
		})
	}
}

func recorded(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
