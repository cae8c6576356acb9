package kms_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cmkd/daemon/attestation"
	"cmkd/daemon/audit"
	"cmkd/daemon/audit/event"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/kms"
	"cmkd/daemon/policy"
	"cmkd/daemon/store/storetest"
	"cmkd/socket/kmsapi"
	"cmkd/testenv/memory"
	"cmkd/testenv/nitro"
)

// asker makes calls for a user whose identity policies differ each time, and
// sees what the policies decided.
type asker struct {
	unrecorded
	service *kms.Service
	records []*event.Record
	userARN string
	now     time.Time

	keyID, otherID, grantID string
	blob                    []byte            // a ciphertext of the key
	documents               map[string][]byte // attestation documents by platform
}

func (a *asker) Append(_ context.Context, r *event.Record) error {
	copied := *r
	a.records = append(a.records, &copied)
	return nil
}

func (a *asker) AppendIn(ctx context.Context, r *event.Record, _ audit.Room) error {
	return a.Append(ctx, r)
}

func (a *asker) AppendBefore(ctx context.Context, r *event.Record, _ audit.Room) error {
	return a.Append(ctx, r)
}

const askAllow = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}`

// newAsker is a service with a multi-Region key that has an alias, tags and a
// grant, and with another key.
func newAsker(t *testing.T) *asker {
	t.Helper()
	a := &asker{now: time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC), userARN: "arn:aws:iam::" + account + ":user/alice"}
	later := a.now.Add(72 * time.Hour) // three days without use
	authority := nitro.NewAuthority(t, later)
	public, err := x509.MarshalPKIXPublicKey(&memory.Pair().PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	pcrs := func(name string, n int) func(*nitro.Draft) {
		return func(d *nitro.Draft) {
			all := map[int][]byte{}
			for i := range n {
				all[i] = nitro.PCR(byte(i))
			}
			delete(d.Payload, "pcrs")
			d.Payload[name] = all
		}
	}
	a.documents = map[string][]byte{
		"enclave": authority.Document(t, public, pcrs("pcrs", 32)), "tpm": authority.Document(t, public, pcrs("nitrotpm_pcrs", 24)),
	}
	db := storetest.NewStore(t)
	a.service = kms.New(kms.Config{
		Account: account, Region: "us-east-1", Regions: []string{"us-east-1", "eu-west-1"}, Token: "main", Store: db, Trail: a,
		Router: &memory.Router{Token: memory.New()}, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return a.now },
		Attestations: attestation.NewVerifier([]*x509.Certificate{authority.Root}),
		Limits:       kms.Limits{RefusalBurst: 1e9},
	})
	a.keyID = a.must(t, "CreateKey", map[string]any{"MultiRegion": true, "Tags": []any{tag("team", "a")}})["KeyMetadata"].(map[string]any)["KeyId"].(string)
	a.otherID = a.must(t, "CreateKey", map[string]any{})["KeyMetadata"].(map[string]any)["KeyId"].(string)
	a.must(t, "CreateAlias", map[string]any{"AliasName": "alias/app", "TargetKeyId": a.keyID})
	a.grantID = a.must(t, "CreateGrant", map[string]any{
		"KeyId": a.keyID, "GranteePrincipal": "arn:aws:iam::" + account + ":user/bob", "Operations": []string{"Decrypt"},
		"Constraints": map[string]any{"EncryptionContextEquals": map[string]string{"app": "web"}},
	})["GrantId"].(string)
	text := a.must(t, "Encrypt", map[string]any{"KeyId": a.keyID, "Plaintext": "eA==", "EncryptionContext": map[string]string{"app": "web"}})["CiphertextBlob"].(string)
	if a.blob, err = base64.StdEncoding.DecodeString(text); err != nil {
		t.Fatal(err)
	}
	a.now = later
	return a
}

func tag(key, value string) map[string]string {
	return map[string]string{"TagKey": key, "TagValue": value}
}

// must calls as a user who may do everything.
func (a *asker) must(t *testing.T, operation string, in map[string]any) map[string]any {
	t.Helper()
	answer := a.call(t, operation, in, askAllow)
	var out map[string]any
	if len(answer.Body) > 0 {
		if err := json.Unmarshal(answer.Body, &out); err != nil {
			t.Fatal(err)
		}
	}
	if answer.Status != 200 {
		t.Fatalf("%s: %s", operation, answer.Body)
	}
	return out
}

func (a *asker) call(t *testing.T, operation string, in map[string]any, identity ...string) *kmsapi.Answer {
	t.Helper()
	caller := &journal.Caller{Principal: policy.Principal{Type: policy.User, ARN: a.userARN, AccountID: account, UserName: "alice"}}
	for _, text := range identity {
		d, err := policy.Parse([]byte(text), policy.IdentityPolicy)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		caller.Policies = append(caller.Policies, d)
	}
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	return a.service.Dispatch(t.Context(), caller, &kmsapi.Request{Operation: operation, Body: body, RequestID: "r", UserAgent: "ua"})
}

// denies reports whether a Deny of the action with the condition applies to the
// call. Nothing allows the action, so the call does nothing in either case; what
// else the operation needs is allowed.
func (a *asker) denies(t *testing.T, action, operation string, in map[string]any, condition string) bool {
	t.Helper()
	needs := map[string]string{
		"ReEncryptTo": `{"Effect":"Allow","Action":"kms:ReEncryptFrom","Resource":"*"},`,
		"CreateAlias": `{"Effect":"Allow","Action":"kms:*Alias","Resource":"arn:aws:kms:*:*:alias/*"},`,
	}
	needs["UpdateAlias"], needs["DeleteAlias"] = needs["CreateAlias"], needs["CreateAlias"]
	a.records = nil
	a.call(t, operation, in, fmt.Sprintf(
		`{"Version":"2012-10-17","Statement":[%s{"Effect":"Deny","Action":"kms:%s","Resource":"*","Condition":%s}]}`,
		needs[action], action, condition))
	return len(a.records) > 0 && strings.HasPrefix(a.records[0].AdditionalEventData.Reason, "explicitly denied")
}

// requests are calls that need the action: each key of AWS's table is in one of
// them.
func (a *asker) requests(action string) (operation string, list []map[string]any) {
	operation = action
	if strings.HasPrefix(action, "ReEncrypt") {
		operation = "ReEncrypt"
	}
	context := map[string]string{"app": "web"}
	in := map[string]any{"KeyId": a.keyID}
	add := func(pairs ...any) map[string]any {
		for i := 0; i < len(pairs); i += 2 {
			in[pairs[i].(string)] = pairs[i+1]
		}
		return in
	}
	validTo := a.now.Add(time.Hour).Unix()
	switch action {
	case "ConnectCustomKeyStore", "DeleteCustomKeyStore", "DisconnectCustomKeyStore", "UpdateCustomKeyStore":
		return operation, []map[string]any{{"CustomKeyStoreId": "cks-0123456789abcdef0"}}
	case "CreateCustomKeyStore":
		return operation, []map[string]any{{"CustomKeyStoreName": "store"}}
	case "DescribeCustomKeyStores", "ListAliases", "ListKeys":
		return operation, []map[string]any{{}}
	case "ListRetirableGrants":
		return operation, []map[string]any{{"RetiringPrincipal": a.userARN}}
	case "CreateAlias":
		return operation, []map[string]any{{"AliasName": "alias/new", "TargetKeyId": a.keyID}}
	case "UpdateAlias":
		return operation, []map[string]any{{"AliasName": "alias/app", "TargetKeyId": a.keyID}}
	case "DeleteAlias":
		return operation, []map[string]any{{"AliasName": "alias/app"}}
	case "CreateKey":
		in = map[string]any{"MultiRegion": true}
		add("Tags", []any{tag("team", "a")}, "BypassPolicyLockoutSafetyCheck", true)
	case "CreateGrant":
		service := maps.Clone(add("GranteeServicePrincipal", "ec2.amazonaws.com", "RetiringServicePrincipal", "rds.amazonaws.com",
			"Operations", []string{"Decrypt"}, "Constraints", map[string]any{"SourceArn": "arn:aws:s3:::a-bucket"}))
		in = map[string]any{"KeyId": a.keyID}
		list = append(list, service)
		add("GranteePrincipal", a.userARN, "RetiringPrincipal", a.userARN, "Operations", []string{"Decrypt"},
			"Constraints", map[string]any{"EncryptionContextEquals": context})
	case "RetireGrant", "RevokeGrant":
		add("GrantId", a.grantID)
	case "ImportKeyMaterial":
		add("ImportToken", "eA==", "EncryptedKeyMaterial", "eA==", "ExpirationModel", "KEY_MATERIAL_EXPIRES", "ValidTo", validTo)
	case "GetParametersForImport":
		add("WrappingAlgorithm", "RSAES_OAEP_SHA_256", "WrappingKeySpec", "RSA_2048")
	case "PutKeyPolicy":
		add("Policy", askAllow, "BypassPolicyLockoutSafetyCheck", true)
	case "EnableKeyRotation":
		add("RotationPeriodInDays", 180)
	case "ScheduleKeyDeletion":
		add("PendingWindowInDays", 10)
	case "ReplicateKey":
		add("ReplicaRegion", "eu-west-1")
	case "UpdatePrimaryRegion":
		add("PrimaryRegion", "eu-west-1")
	case "UpdateKeyDescription":
		add("Description", "d")
	case "TagResource":
		add("Tags", []any{tag("team", "a")})
	case "UntagResource":
		add("TagKeys", []string{"team"})
	case "ReEncryptFrom", "ReEncryptTo":
		in = map[string]any{
			"CiphertextBlob": a.blob, "SourceKeyId": "alias/app", "DestinationKeyId": "alias/app",
			"SourceEncryptionContext": context, "DestinationEncryptionContext": context,
		}
	default:
		in["KeyId"] = "alias/app"
	}
	switch action {
	case "Encrypt":
		add("Plaintext", "eA==", "EncryptionContext", context)
	case "Decrypt":
		add("CiphertextBlob", a.blob, "EncryptionContext", context)
	case "GenerateDataKey", "GenerateDataKeyWithoutPlaintext":
		add("KeySpec", "AES_256", "EncryptionContext", context)
	case "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext":
		add("KeyPairSpec", "ECC_NIST_P256", "EncryptionContext", context)
	case "Sign", "Verify":
		add("Message", "eA==", "MessageType", "RAW", "SigningAlgorithm", "ECDSA_SHA_256", "Signature", "eA==")
	case "GenerateMac", "VerifyMac":
		add("Message", "eA==", "MacAlgorithm", "HMAC_SHA_256", "Mac", "eA==")
	case "DeriveSharedSecret":
		add("KeyAgreementAlgorithm", "ECDH", "PublicKey", "eA==")
	case "Encapsulate", "Decapsulate":
		add("EncapsulationAlgorithm", "ML_KEM", "SharedSecretCiphertextBlob", "eA==")
	case "GenerateRandom":
		in = map[string]any{"NumberOfBytes": 32}
	case "CancelKeyDeletion", "DeleteImportedKeyMaterial", "DisableKey", "DisableKeyRotation", "EnableKey", "GetKeyLastUsage",
		"GetKeyPolicy", "GetKeyRotationStatus", "ListGrants", "ListKeyPolicies", "ListKeyRotations", "ListResourceTags", "RotateKeyOnDemand":
		in["KeyId"] = a.keyID // no alias
	}
	for _, document := range a.documents {
		attested := maps.Clone(in)
		attested["Recipient"] = map[string]any{"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}
		list = append(list, attested)
	}
	return operation, append(list, in)
}

// expected is the value of a key in those requests.
func (a *asker) expected(action, key string) string {
	if rest, ok := strings.CutPrefix(key, "kms:RecipientAttestation:"); ok {
		var n byte
		if _, err := fmt.Sscanf(strings.TrimPrefix(rest, "NitroTPM"), "PCR%d", &n); err != nil {
			n = 0 // ImageSha384
		}
		return hex.EncodeToString(nitro.PCR(n))
	}
	switch {
	case action == "CreateGrant" && key == "kms:GrantOperations":
		return "Decrypt"
	case strings.HasSuffix(action, "Key") && key == "kms:EncryptionAlgorithm":
		return "SYMMETRIC_DEFAULT"
	}
	value, ok := map[string]string{
		"aws:RequestTag/team": "a", "aws:ResourceTag/team": "a", "aws:TagKeys": "team",
		"kms:BypassPolicyLockoutSafetyCheck": "true", "kms:CallerAccount": account, "kms:CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
		"kms:CustomerMasterKeyUsage": "ENCRYPT_DECRYPT", "kms:DataKeyPairSpec": "ECC_NIST_P256", "kms:EncapsulationAlgorithm": "ML_KEM",
		"kms:EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "kms:EncryptionContext:app": "web", "kms:EncryptionContextKeys": "app",
		"kms:ExpirationModel": "KEY_MATERIAL_EXPIRES", "kms:GrantConstraintSourceArn": "arn:aws:s3:::a-bucket",
		"kms:GrantConstraintType": "EncryptionContextEquals", "kms:GrantIsForAWSResource": "false", "kms:GranteePrincipal": a.userARN,
		"kms:GranteeServicePrincipal": "ec2.amazonaws.com", "kms:KeyAgreementAlgorithm": "ECDH", "kms:KeyOrigin": "AWS_KMS",
		"kms:KeySpec": "SYMMETRIC_DEFAULT", "kms:KeyUsage": "ENCRYPT_DECRYPT", "kms:MacAlgorithm": "HMAC_SHA_256", "kms:MessageType": "RAW",
		"kms:MultiRegion": "true", "kms:MultiRegionKeyType": "PRIMARY", "kms:PrimaryRegion": "eu-west-1", "kms:ReEncryptOnSameKey": "true",
		"kms:ReplicaRegion": "eu-west-1", "kms:RequestAlias": "alias/app", "kms:ResourceAliases": "alias/app", "kms:RetiringPrincipal": a.userARN,
		"kms:RetiringServicePrincipal": "rds.amazonaws.com", "kms:RotationPeriodInDays": "180", "kms:ScheduleKeyDeletionPendingWindowInDays": "10",
		"kms:SigningAlgorithm": "ECDSA_SHA_256", "kms:TrailingDaysWithoutKeyUsage": "3", "kms:ValidTo": fmt.Sprint(a.now.Add(time.Hour).Unix()),
		"kms:WrappingAlgorithm": "RSAES_OAEP_SHA_256", "kms:WrappingKeySpec": "RSA_2048",
	}[key]
	if !ok {
		panic("no value of " + key)
	}
	return value
}

// conditionKeys reads testdata/condition-keys.txt.
func conditionKeys(t *testing.T) map[string][]string {
	t.Helper()
	raw, err := os.ReadFile("testdata/condition-keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	groups := map[string][]string{"RECIPIENT": {"kms:RecipientAttestation:ImageSha384"}}
	for i := range 32 {
		groups["RECIPIENT"] = append(groups["RECIPIENT"], fmt.Sprintf("kms:RecipientAttestation:PCR%d", i))
	}
	for i := range 24 {
		groups["RECIPIENT"] = append(groups["RECIPIENT"], fmt.Sprintf("kms:RecipientAttestation:NitroTPMPCR%d", i))
	}
	table := map[string][]string{}
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		name, rest, ok := strings.Cut(lines.Text(), ":")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		keys := []string{}
		for _, k := range strings.Fields(rest) {
			if group, ok := groups[k]; ok {
				keys = append(keys, group...)
			} else {
				keys = append(keys, k)
			}
		}
		if name == "KEY" {
			groups[name] = keys
		} else {
			table[name] = keys
		}
	}
	return table
}

// TestConditionKeysOfActions: every condition key that AWS has for an action is
// in a request that needs the action, with its value. A Deny on it denies, and
// denies nothing with another value. Only kms:ViaService is never there: no call
// comes through an AWS service.
func TestConditionKeysOfActions(t *testing.T) {
	t.Parallel()
	a := newAsker(t)
	table := conditionKeys(t)
	pairs := 0
	for _, action := range slices.Sorted(maps.Keys(table)) {
		if keys.ActionFolded(action) == nil {
			t.Errorf("%s is in the table and is not an action", action)
		}
		operation, requests := a.requests(action)
		for _, key := range table[action] {
			pairs++
			if !policy.KnownKey(key) {
				t.Errorf("%s is not known", key)
			}
			if key == "kms:ViaService" {
				for _, in := range requests {
					if a.denies(t, action, operation, in, `{"Null":{"kms:ViaService":"false"}}`) {
						t.Errorf("%s has kms:ViaService", action)
					}
				}
				continue
			}
			right, wrong := fmt.Sprintf(`{"StringEquals":{%q:%q}}`, key, a.expected(action, key)), fmt.Sprintf(`{"StringEquals":{%q:"another"}}`, key)
			i := slices.IndexFunc(requests, func(in map[string]any) bool { return a.denies(t, action, operation, in, right) })
			switch {
			case i < 0:
				t.Errorf("kms:%s has no %s = %q", action, key, a.expected(action, key))
			case a.denies(t, action, operation, requests[i], wrong):
				t.Errorf("kms:%s: a Deny of another %s applies", action, key)
			case !a.denies(t, action, operation, requests[i], fmt.Sprintf(`{"Null":{%q:"false"}}`, key)):
				t.Errorf("kms:%s: %s is Null", action, key)
			}
		}
	}
	for _, o := range kmsapi.Operations {
		if _, ok := table[o.Name]; !ok && o.Name != "ReEncrypt" {
			t.Errorf("%s is not in the table", o.Name)
		}
	}
	t.Logf("%d pairs of action and condition key", pairs)
}
