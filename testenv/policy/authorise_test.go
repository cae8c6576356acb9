package policy

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// threePart is the key policy of AWS's console: account, administrators, users.
func threePart(admin, user string) *string {
	return rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:*"`, ""),
		rig.Allowing(admin, `"kms:Create*","kms:Describe*","kms:Enable*","kms:List*","kms:Put*","kms:Update*","kms:Revoke*","kms:Disable*","kms:Get*","kms:Delete*","kms:TagResource","kms:UntagResource","kms:ScheduleKeyDeletion","kms:CancelKeyDeletion"`, ""),
		rig.Allowing(user, `"kms:Encrypt","kms:Decrypt","kms:ReEncrypt*","kms:GenerateDataKey*","kms:DescribeKey"`, ""))
}

// TestRoles: whoever administers a key cannot use it, whoever uses it cannot
// administer it, root may do what the policy hands to the account.
func TestRoles(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true})
	ctx, root := t.Context(), r.Client("")
	id := rig.NewKey(t, root, &kms.CreateKeyInput{Policy: threePart(rig.Operator.ARN(), rig.AppGroup)})
	admin, user := r.As(t, rig.Operator), r.As(t, rig.App)

	rig.Outcome(t, "user encrypts", rig.EncryptWith(t, user, id), "")
	rig.Outcome(t, "administrator encrypts", rig.EncryptWith(t, admin, id), rig.Denied)
	rig.Outcome(t, "root encrypts", rig.EncryptWith(t, root, id), "")
	_, err := admin.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: &id, Description: aws.String("d")})
	rig.Outcome(t, "administrator describes", err, "")
	_, err = user.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: &id, Description: aws.String("d")})
	rig.Outcome(t, "user describes", err, rig.Denied)
	_, err = user.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &id, Policy: threePart(rig.App.ARN(), rig.App.ARN())})
	rig.Outcome(t, "user changes the policy", err, rig.Denied)
	_, err = user.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &id})
	rig.Outcome(t, "user disables", err, rig.Denied)
	_, err = user.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: &id, GranteePrincipal: aws.String(rig.Stranger.ARN()), Operations: []types.GrantOperation{"Decrypt"}})
	rig.Outcome(t, "user makes a grant", err, rig.Denied)

	// Without the group there is nothing left.
	alone := rig.App
	alone.Groups = nil
	rig.Outcome(t, "user outside of the group", rig.EncryptWith(t, r.As(t, alone), id), rig.Denied)

	// The state is not for those who may do nothing.
	_, err = admin.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &id})
	rig.Outcome(t, "administrator disables", err, "")
	rig.Outcome(t, "user of a disabled key", rig.EncryptWith(t, user, id), "DisabledException")
	rig.Outcome(t, "stranger of a disabled key", rig.EncryptWith(t, r.As(t, rig.Stranger), id), rig.Denied)
	if err := rig.EncryptWith(t, r.As(t, rig.Stranger), id); !strings.Contains(rig.Message(err), "because no resource-based policy allows the kms:Encrypt action") {
		t.Errorf("AWS words it otherwise: %v", err)
	}
}

// rawAnswer is all that a client sees of an answer but its date and request ID.
func rawAnswer(t *testing.T, c *http.Client, operation, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Amz-Target", "TrentService."+operation)
	status, header, raw := rig.Do(t, c, req)
	for _, h := range []string{"Date", "X-Amzn-Requestid", "Content-Length"} {
		header.Del(h)
	}
	return fmt.Sprint(status, header, raw)
}

// TestStranger: the answers about a key that exists and one that does not are
// the same, but for what the stranger wrote.
func TestStranger(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true})
	ctx, root := t.Context(), r.Client("")
	id := rig.NewKey(t, root, &kms.CreateKeyInput{})
	if _, err := root.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/there"), TargetKeyId: &id}); err != nil {
		t.Fatal(err)
	}
	sealed, err := root.Encrypt(ctx, &kms.EncryptInput{KeyId: &id, Plaintext: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	grant, err := root.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: &id, GranteePrincipal: aws.String(rig.App.ARN()), Operations: []types.GrantOperation{"Decrypt"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := root.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &id}); err != nil {
		t.Fatal(err)
	}
	const missing = "00000000-0000-4000-8000-000000000000"
	client := r.HTTPAs(t, rig.Stranger)
	same := func(operation, body, there, notThere string) {
		t.Helper()
		a := rawAnswer(t, client, operation, strings.ReplaceAll(body, "KEY", there))
		b := rawAnswer(t, client, operation, strings.ReplaceAll(body, "KEY", notThere))
		if strings.ReplaceAll(a, there, "KEY") != strings.ReplaceAll(b, notThere, "KEY") {
			t.Errorf("%s tells whether a key is there:\n%s\n%s", operation, a, b)
		}
		if !strings.Contains(a, rig.Denied) {
			t.Errorf("%s: %s", operation, a)
		}
	}
	for _, operation := range []struct{ name, body string }{
		{"DescribeKey", `{"KeyId":"KEY"}`},
		{"Encrypt", `{"KeyId":"KEY","Plaintext":"eA=="}`},
		{"Encrypt", `{"KeyId":"KEY","Plaintext":"eA==","DryRun":true}`},
		{"GenerateDataKeyWithoutPlaintext", `{"KeyId":"KEY","KeySpec":"AES_256"}`},
		{"Sign", `{"KeyId":"KEY","Message":"eA==","SigningAlgorithm":"ECDSA_SHA_256"}`},
		{"GenerateMac", `{"KeyId":"KEY","Message":"eA==","MacAlgorithm":"HMAC_SHA_256"}`},
		{"GetPublicKey", `{"KeyId":"KEY"}`},
		{"ReEncrypt", `{"CiphertextBlob":"eA==","SourceKeyId":"KEY","DestinationKeyId":"KEY"}`},
		{"GetKeyPolicy", `{"KeyId":"KEY"}`},
		{"DisableKey", `{"KeyId":"KEY"}`},
		{"EnableKeyRotation", `{"KeyId":"KEY"}`},
		{"ScheduleKeyDeletion", `{"KeyId":"KEY"}`},
		{"CancelKeyDeletion", `{"KeyId":"KEY"}`},
		{"ListGrants", `{"KeyId":"KEY"}`},
		{"TagResource", `{"KeyId":"KEY","Tags":[{"TagKey":"a","TagValue":"b"}]}`},
		{"GetParametersForImport", `{"KeyId":"KEY","WrappingAlgorithm":"RSAES_OAEP_SHA_256","WrappingKeySpec":"RSA_2048"}`},
		{"CreateGrant", `{"KeyId":"KEY","GranteePrincipal":"` + rig.Stranger.ARN() + `","Operations":["Decrypt"]}`},
		{"RevokeGrant", `{"KeyId":"KEY","GrantId":"` + *grant.GrantId + `"}`},
		{"UpdatePrimaryRegion", `{"KeyId":"KEY","PrimaryRegion":"eu-west-1"}`},
		{"GetKeyLastUsage", `{"KeyId":"KEY"}`},
		{"EnableKey", `{"KeyId":"KEY"}`},
		{"UpdateKeyDescription", `{"KeyId":"KEY","Description":"d"}`},
		{"ListKeyPolicies", `{"KeyId":"KEY"}`},
		{"PutKeyPolicy", `{"KeyId":"KEY","Policy":"{}"}`},
		{"ListResourceTags", `{"KeyId":"KEY"}`},
		{"UntagResource", `{"KeyId":"KEY","TagKeys":["a"]}`},
		{"DisableKeyRotation", `{"KeyId":"KEY"}`},
		{"GetKeyRotationStatus", `{"KeyId":"KEY"}`},
		{"ListKeyRotations", `{"KeyId":"KEY"}`},
		{"RotateKeyOnDemand", `{"KeyId":"KEY"}`},
		{"ImportKeyMaterial", `{"KeyId":"KEY","ImportToken":"eA==","EncryptedKeyMaterial":"eA==","ExpirationModel":"\u004bEY_MATERIAL_DOES_NOT_EXPIRE"}`},
		{"DeleteImportedKeyMaterial", `{"KeyId":"KEY"}`},
		{"ReplicateKey", `{"KeyId":"KEY","ReplicaRegion":"eu-west-1"}`},
		{"ListAliases", `{"KeyId":"KEY"}`},
		{"Decrypt", `{"KeyId":"KEY","CiphertextBlob":"eA=="}`},
		{"Decrypt", `{"KeyId":"KEY","DryRun":true,"DryRunModifiers":["IGNORE_CIPHERTEXT"]}`},
		{"Decrypt", `{"KeyId":"KEY","CiphertextBlob":"eA==","EncryptionAlgorithm":"RSAES_OAEP_SHA_256"}`},
		{"GenerateDataKey", `{"KeyId":"KEY","KeySpec":"AES_256"}`},
		{"GenerateDataKeyPair", `{"KeyId":"KEY","KeyPairSpec":"RSA_2048"}`},
		{"GenerateDataKeyPairWithoutPlaintext", `{"KeyId":"KEY","KeyPairSpec":"RSA_2048"}`},
		{"Verify", `{"KeyId":"KEY","Message":"eA==","Signature":"eA==","SigningAlgorithm":"ECDSA_SHA_256"}`},
		{"VerifyMac", `{"KeyId":"KEY","Message":"eA==","Mac":"eA==","MacAlgorithm":"HMAC_SHA_256"}`},
		{"DeriveSharedSecret", `{"KeyId":"KEY","KeyAgreementAlgorithm":"ECDH","PublicKey":"eA=="}`},
		{"Encapsulate", `{"KeyId":"KEY","EncapsulationAlgorithm":"ML_KEM"}`},
		{"Decapsulate", `{"KeyId":"KEY","EncapsulationAlgorithm":"ML_KEM","SharedSecretCiphertextBlob":"eA=="}`},
		{"Encrypt", `{"KeyId":"KEY","Plaintext":"eA==","GrantTokens":["` + *grant.GrantToken + `"]}`},
	} {
		same(operation.name, operation.body, id, missing)
		same(operation.name, operation.body, rig.ARN("key/"+id), rig.ARN("key/"+missing))
		same(operation.name, operation.body, "alias/there", "alias/gone")
		same(operation.name, operation.body, rig.ARN("alias/there"), rig.ARN("alias/gone"))
	}
	for operation, body := range map[string]string{
		"CreateKey": `{}`, "ListKeys": `{}`, "ListAliases": `{}`, "GenerateRandom": `{"NumberOfBytes":8}`,
		"ListRetirableGrants":      `{"RetiringPrincipal":"` + rig.Stranger.ARN() + `"}`,
		"CreateCustomKeyStore":     `{"CustomKeyStoreName":"s"}`,
		"DescribeCustomKeyStores":  `{}`,
		"UpdateCustomKeyStore":     `{"CustomKeyStoreId":"cks-1234567890abcdef0"}`,
		"ConnectCustomKeyStore":    `{"CustomKeyStoreId":"cks-1234567890abcdef0"}`,
		"DisconnectCustomKeyStore": `{"CustomKeyStoreId":"cks-1234567890abcdef0"}`,
		"DeleteCustomKeyStore":     `{"CustomKeyStoreId":"cks-1234567890abcdef0"}`,
	} {
		if got := rawAnswer(t, client, operation, body); !strings.Contains(got, rig.Denied) {
			t.Errorf("%s: %s", operation, got)
		}
	}
	same("RetireGrant", `{"KeyId":"KEY","GrantId":"`+*grant.GrantId+`"}`, rig.ARN("key/"+id), rig.ARN("key/"+missing))
	same("DeleteAlias", `{"AliasName":"KEY"}`, "alias/there", "alias/gone")
	same("UpdateAlias", `{"AliasName":"KEY","TargetKeyId":"`+id+`"}`, "alias/there", "alias/gone")
	same("CreateAlias", `{"AliasName":"KEY","TargetKeyId":"`+id+`"}`, "alias/there", "alias/gone")

	// A ciphertext of a key, and one of a key that never was.
	there := rawAnswer(t, client, "Decrypt", fmt.Sprintf(`{"CiphertextBlob":%q}`, base64.StdEncoding.EncodeToString(sealed.CiphertextBlob)))
	altered := append([]byte{}, sealed.CiphertextBlob...)
	altered[3] ^= 1 // in the key ID
	if got := rawAnswer(t, client, "Decrypt", fmt.Sprintf(`{"CiphertextBlob":%q}`, base64.StdEncoding.EncodeToString(altered))); got != there {
		t.Errorf("Decrypt tells whether a key is there:\n%s\n%s", there, got)
	}
	if !strings.Contains(there, "kms:Decrypt on the resource associated with this ciphertext because the resource does not exist in this Region, ") {
		t.Errorf("Decrypt: %s", there)
	}
}

// TestIdentityPolicies: files give permissions, by user, group and role; a
// reload takes effect at once and only as a whole.
func TestIdentityPolicies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	role := "arn:aws:iam::" + rig.Account + ":role/backup"
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	allow := func(action string) string {
		return `{"Version":"2012-10-17","Statement":{"Sid":"S","Effect":"Allow","Action":"` + action + `","Resource":"*"}}`
	}
	write("user/uid-61001/admin.json", allow("kms:*"))
	write("group/gid-61100/use.json", allow("kms:Encrypt"))
	write("role/backup/use.json", allow("kms:Encrypt"))
	write("role/backup/README", "not a policy")
	backup := rig.User{UID: 61004, GID: 61004}
	r := rig.New(t, rig.Config{
		World: true, Extra: fmt.Sprintf("identity_policies = %q", dir),
		Tables: fmt.Sprintf("[[principals.map]]\nuser = \"61004\"\narn = %q\ntags = { stage = \"prod\" }\n", role),
	})
	ctx, root := t.Context(), r.Client("")
	id := rig.NewKey(t, root, &kms.CreateKeyInput{})
	closed := rig.NewKey(t, root, &kms.CreateKeyInput{Policy: rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:PutKeyPolicy"`, ""), rig.Allowing(role, `"kms:Encrypt"`, `{"StringEquals":{"aws:PrincipalTag/stage":"prod"}}`))})

	rig.Outcome(t, "by the user's policy", rig.EncryptWith(t, r.As(t, rig.Operator), id), "")
	rig.Outcome(t, "by the group's policy", rig.EncryptWith(t, r.As(t, rig.App), id), "")
	rig.Outcome(t, "by the role's policy", rig.EncryptWith(t, r.As(t, backup), id), "")
	rig.Outcome(t, "by nothing", rig.EncryptWith(t, r.As(t, rig.Stranger), id), rig.Denied)
	rig.Outcome(t, "where the key policy does not hand over", rig.EncryptWith(t, r.As(t, rig.Operator), closed), rig.Denied)
	rig.Outcome(t, "where the key policy names the role", rig.EncryptWith(t, r.As(t, backup), closed), "")
	if trail := r.AuditTrail(t); !strings.Contains(trail, `of the identity policy user/uid-61001/admin`) ||
		!strings.Contains(trail, `:uid-61004","arn":"arn:aws:sts::`+rig.Account+`:assumed-role/backup/uid-61004"`) ||
		!strings.Contains(trail, `"type":"AssumedRole","principalId":"AROA`) {
		t.Error("the audit trail does not say which policy allowed, or who called")
	}

	// A key needs the permission to tag it, and an unknown principal is refused.
	_, err := r.As(t, rig.Operator).CreateKey(ctx, &kms.CreateKeyInput{Policy: threePart("arn:aws:iam::"+rig.Account+":user/no-such-user", rig.AppGroup)})
	rig.Outcome(t, "policy with an unknown user", err, "MalformedPolicyDocumentException")
	_, err = root.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: &id, GranteePrincipal: aws.String("arn:aws:iam::" + rig.Account + ":role/no-such-role"), Operations: []types.GrantOperation{"Decrypt"}})
	rig.Outcome(t, "grant to an unknown role", err, "InvalidArnException")
	_, err = root.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &id, Policy: threePart(role, "arn:aws:iam::"+rig.Account+":group/root")})
	rig.Outcome(t, "policy with a role and a group of the system", err, "")

	// A bad file: the old set stays, whole.
	write("user/uid-61001/admin.json", allow("kms:Decrypt"))
	write("group/gid-61100/use.json", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:Encrypt","Resource":"*","Colour":"red"}}`)
	if err := r.Daemon.Reload(ctx); err == nil || !strings.Contains(err.Error(), "use.json") || !strings.Contains(err.Error(), "Colour") {
		t.Errorf("reload of a bad file: %v", err)
	}
	rig.Outcome(t, "after a refused reload", rig.EncryptWith(t, r.As(t, rig.Operator), id), "")
	write("group/gid-61100/use.json", allow("kms:Encrypt"))
	if err := os.Chmod(filepath.Join(dir, "group/gid-61100/use.json"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := r.Daemon.Reload(ctx); err == nil || !strings.Contains(err.Error(), "can be written by others") {
		t.Errorf("reload of a file that anyone can write: %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, "group/gid-61100/use.json"), 0o644); err != nil {
		t.Fatal(err)
	}
	write("users/uid-61001/typo.json", allow("kms:*"))
	if err := r.Daemon.Reload(ctx); err == nil || !strings.Contains(err.Error(), "not one of the folders") {
		t.Errorf("reload of a folder of the wrong name: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "users")); err != nil {
		t.Fatal(err)
	}
	if err := r.Daemon.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	rig.Outcome(t, "after the reload", rig.EncryptWith(t, r.As(t, rig.Operator), id), rig.Denied)
	rig.Outcome(t, "of the group, after the reload", rig.EncryptWith(t, r.As(t, rig.App), id), "")

	// The role is gone from the configuration: the user is itself again.
	config, err := os.ReadFile(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	before, _, _ := strings.Cut(string(config), "[[principals.map]]")
	if err := os.WriteFile(r.Path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	connected := r.As(t, backup)
	rig.Outcome(t, "before it is removed", rig.EncryptWith(t, connected, id), "")
	if err := r.Daemon.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	rig.Outcome(t, "removed, on the connection of before", rig.EncryptWith(t, connected, id), rig.Denied)
	rig.Outcome(t, "removed, where the key policy names the role", rig.EncryptWith(t, connected, closed), rig.Denied)
}

// TestAdmins: the configuration's admins may do everything that key policies
// leave to the account, until they are not admins any more.
func TestAdmins(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true, Tables: "[admins]\nusers = [\"61001\"]\ngroups = [\"61100\"]\n"})
	ctx := t.Context()
	id := rig.NewKey(t, r.As(t, rig.Operator), &kms.CreateKeyInput{Tags: []types.Tag{{TagKey: aws.String("a"), TagValue: aws.String("b")}}})
	rig.Outcome(t, "admin by group", rig.EncryptWith(t, r.As(t, rig.App), id), "")
	rig.Outcome(t, "stranger", rig.EncryptWith(t, r.As(t, rig.Stranger), id), rig.Denied)
	config, err := os.ReadFile(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(config), `users = ["61001"]`, `users = []`, 1)
	if err := os.WriteFile(r.Path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Daemon.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	rig.Outcome(t, "admin no more", rig.EncryptWith(t, r.As(t, rig.Operator), id), rig.Denied)
	_, err = r.As(t, rig.Operator).ListKeys(ctx, &kms.ListKeysInput{})
	rig.Outcome(t, "admin no more, without a key", err, rig.Denied)
}
