package api

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cmkd/testenv/rig"
)

// testAWSCLI drives the daemon with the AWS CLI, through the bridge, as a
// person would.
func testAWSCLI(t *testing.T, a *api) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "plain"), []byte("attack at dawn"), 0o600); err != nil {
		t.Fatal(err)
	}
	script := `set -eu
cd "$1"
kms() { aws --endpoint-url "$AWS_ENDPOINT_URL_KMS" --output text kms "$@"; }
id=$(kms create-key --description cli --tags TagKey=a,TagValue=b --query KeyMetadata.KeyId)
kms create-alias --alias-name alias/cli --target-key-id "$id"
kms encrypt --key-id alias/cli --plaintext fileb://plain --encryption-context a=b --query CiphertextBlob | base64 -d >sealed
kms decrypt --ciphertext-blob fileb://sealed --encryption-context a=b --query Plaintext | base64 -d | cmp - plain
if kms decrypt --ciphertext-blob fileb://sealed 2>error; then echo decrypted without its context; exit 1; fi
grep -q InvalidCiphertextException error
kms generate-data-key-without-plaintext --key-id alias/cli --key-spec AES_256 --query KeyId | grep -q ":key/$id$"
if kms generate-data-key --key-id alias/cli --key-spec AES_256 2>error; then echo a data key in the clear; exit 1; fi
grep -q AccessDeniedException error
signer=$(kms create-key --key-spec ECC_NIST_P256 --key-usage SIGN_VERIFY --query KeyMetadata.KeyId)
kms sign --key-id "$signer" --message fileb://plain --signing-algorithm ECDSA_SHA_256 --query Signature | base64 -d >signature
kms get-public-key --key-id "$signer" --query PublicKey | base64 -d >public.der
openssl dgst -sha256 -verify public.der -keyform DER -signature signature plain
test "$(kms verify --key-id "$signer" --message fileb://plain --signing-algorithm ECDSA_SHA_256 --signature fileb://signature --query SignatureValid)" = True
kms list-aliases --key-id "$id" --query 'Aliases[].AliasName' | grep -qx alias/cli
kms list-resource-tags --key-id "$id" --query 'Tags[].[TagKey,TagValue]' | grep -q b
kms list-keys --page-size 1 --query 'Keys[].KeyId' | tr '\t' '\n' | grep -qx "$id"
kms schedule-key-deletion --key-id "$id" --pending-window-in-days 7 --query KeyState | grep -qx PendingDeletion
if kms describe-key --key-id alias/none 2>error; then exit 1; fi
grep -q 'NotFoundException.*Alias arn:aws:kms:us-east-1:123456789012:alias/none is not found' error
`
	path, err := exec.LookPath("aws")
	if err != nil {
		t.Fatal("the AWS CLI is not installed: run `make deps`")
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(rig.Binaries(t), "cmkctl"), "--socket", a.Socket, "bridge", "--", "sh", "-c", script, "sh", dir)
	cmd.Env = append(os.Environ(), "AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE="+filepath.Join(dir, "config"), "AWS_PAGER=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		complaint, _ := os.ReadFile(filepath.Join(dir, "error")) // may not be there
		t.Fatalf("with %s: %v\n%s\n%s", path, err, strings.TrimSpace(string(out)), complaint)
	}
}
