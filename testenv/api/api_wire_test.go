package api

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"cmkd/testenv/rig"
)

// fields are the members of a request or an answer as JSON has them.
type fields = map[string]any

// wire sends a request as it is and returns the status and the members of the
// answer.
func (a *api) wire(t *testing.T, operation string, in fields) (int, fields) {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	return a.Post(t, operation, string(body))
}

// answer is wire for a call that must succeed.
func (a *api) answer(t *testing.T, operation string, in fields) fields {
	t.Helper()
	status, out := a.wire(t, operation, in)
	if status != 200 {
		t.Fatalf("%s answered %d %v", operation, status, out)
	}
	return out
}

func encoded(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

const (
	oneFault = "1 validation error detected: "
	plainB64 = "cGxhaW4="
)

// testValidation: what the model constrains is refused in AWS's words, as HTTP
// 400 with the code in the body.
func testValidation(t *testing.T, a *api) {
	key := *a.symmetric(t)
	long := strings.Repeat("a", 129)
	for _, test := range []struct {
		name, operation string
		in              fields
		message         string
	}{
		{"zero", "GenerateRandom", fields{"NumberOfBytes": 0}, oneFault + "Value '0' at 'numberOfBytes' failed to satisfy constraint: Member must have value greater than or equal to 1"},
		{"too many", "GenerateRandom", fields{"NumberOfBytes": 1025}, oneFault + "Value '1025' at 'numberOfBytes' failed to satisfy constraint: Member must have value less than or equal to 1024"},
		{"absent", "GenerateRandom", fields{}, "NumberOfBytes is required."},
		{"blob", "Encrypt", fields{"KeyId": key, "Plaintext": encoded(make([]byte, 4097))}, oneFault + "Value at 'plaintext' failed to satisfy constraint: Member must have length less than or equal to 4096"},
		{"empty blob", "Encrypt", fields{"KeyId": key, "Plaintext": ""}, oneFault + "Value at 'plaintext' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"missing blob", "Encrypt", fields{"KeyId": key}, oneFault + "Value at 'plaintext' failed to satisfy constraint: Member must not be null"},
		{"missing key", "Encrypt", fields{"Plaintext": plainB64}, oneFault + "Value null at 'keyId' failed to satisfy constraint: Member must not be null"},
		{"null", "DescribeKey", fields{"KeyId": nil}, oneFault + "Value null at 'keyId' failed to satisfy constraint: Member must not be null"},
		{"empty key", "DescribeKey", fields{"KeyId": ""}, "2 validation errors detected: Value '' at 'keyId' failed to satisfy constraint: Member must have length greater than or equal to 1; Value '' at 'keyId' failed to satisfy constraint: Member must satisfy regular expression pattern: ^\\p{ASCII}+$"},
		{"list item", "TagResource", fields{"KeyId": key, "Tags": []fields{{"TagKey": "ok", "TagValue": ""}, {"TagKey": long, "TagValue": ""}}}, oneFault + "Value '" + long + "' at 'tags.2.member.tagKey' failed to satisfy constraint: Member must have length less than or equal to 128"},
		{"tag value", "TagResource", fields{"KeyId": key, "Tags": []fields{{"TagKey": "k", "TagValue": strings.Repeat("v", 257)}}}, oneFault + "Value '" + strings.Repeat("v", 257) + "' at 'tags.1.member.tagValue' failed to satisfy constraint: Member must have length less than or equal to 256"},
		{"alias pattern", "CreateAlias", fields{"AliasName": "alias/a b", "TargetKeyId": key}, oneFault + "Value 'alias/a b' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"},
		{"limit 0", "ListKeys", fields{"Limit": 0}, oneFault + "Value '0' at 'limit' failed to satisfy constraint: Member must have value greater than or equal to 1"},
		{"limit 1001", "ListKeys", fields{"Limit": 1001}, oneFault + "Value '1001' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 1000"},
		{"rotation period 89", "EnableKeyRotation", fields{"KeyId": key, "RotationPeriodInDays": 89}, oneFault + "Value '89' at 'rotationPeriodInDays' failed to satisfy constraint: Member must have value greater than or equal to 90"},
		{"rotation period 2561", "EnableKeyRotation", fields{"KeyId": key, "RotationPeriodInDays": 2561}, oneFault + "Value '2561' at 'rotationPeriodInDays' failed to satisfy constraint: Member must have value less than or equal to 2560"},
		{"description", "UpdateKeyDescription", fields{"KeyId": key, "Description": strings.Repeat("d", 8193)}, oneFault + "Value '" + strings.Repeat("d", 8193) + "' at 'description' failed to satisfy constraint: Member must have length less than or equal to 8192"},
		{"message", "Sign", fields{"KeyId": key, "SigningAlgorithm": "ECDSA_SHA_256", "Message": encoded(make([]byte, 4097))}, oneFault + "Value at 'message' failed to satisfy constraint: Member must have length less than or equal to 4096"},
		{"ciphertext", "Decrypt", fields{"CiphertextBlob": encoded(make([]byte, 6145))}, oneFault + "Value at 'ciphertextBlob' failed to satisfy constraint: Member must have length less than or equal to 6144"},
		{"no ciphertext", "Decrypt", fields{}, oneFault + "Value null at 'ciphertextBlob' failed to satisfy constraint: Member must not be null"},
		{"data key size", "GenerateDataKey", fields{"KeyId": key, "NumberOfBytes": 1025}, oneFault + "Value '1025' at 'numberOfBytes' failed to satisfy constraint: Member must have value less than or equal to 1024"},
		{"data key of no size", "GenerateDataKey", fields{"KeyId": key}, "Please specify either number of bytes or key spec."},
		{"data key of two sizes", "GenerateDataKey", fields{"KeyId": key, "NumberOfBytes": 32, "KeySpec": "AES_256"}, "Please specify either number of bytes or key spec."},
		{"both specs", "CreateKey", fields{"KeySpec": "RSA_2048", "CustomerMasterKeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"}, "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated."},
		{"no operation", "CreateGrant", fields{"KeyId": key, "GranteePrincipal": someone, "Operations": []string{}}, "Grants must contain an operation."},
		{"no usage", "CreateKey", fields{"KeySpec": "HMAC_256"}, "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys."},
		{"other usage", "CreateKey", fields{"KeySpec": "HMAC_256", "KeyUsage": "SIGN_VERIFY"}, "KeyUsage SIGN_VERIFY is not compatible with KeySpec HMAC_256"},
	} {
		t.Run(test.operation+" "+test.name, func(t *testing.T) {
			t.Parallel()
			status, out := a.wire(t, test.operation, test.in)
			expectError(t, status, out, fields{"__type": "ValidationException", "message": test.message})
		})
	}
	t.Run("several faults", func(t *testing.T) {
		t.Parallel()
		_, out := a.wire(t, "Encrypt", fields{"Plaintext": ""})
		text, _ := out["message"].(string)
		if !strings.HasPrefix(text, "2 validation errors detected: Value ") || strings.Count(text, "; ") != 1 {
			t.Errorf("two faults are told as %q", text)
		}
	})
	for _, test := range []struct{ name, operation, member, value string }{
		{"key spec", "CreateKey", "keySpec", "HMAC_random"},
		{"usage", "CreateKey", "keyUsage", "RANDOM"},
		{"algorithm", "GenerateMac", "macAlgorithm", "INVALID"},
		{"message type", "Sign", "messageType", "OTHER"},
	} {
		t.Run("enum "+test.name, func(t *testing.T) {
			t.Parallel()
			name := strings.ToUpper(test.member[:1]) + test.member[1:]
			in := fields{"KeyId": key, "Message": plainB64, "SigningAlgorithm": "ECDSA_SHA_256", name: test.value}
			_, out := a.wire(t, test.operation, in)
			text, _ := out["message"].(string)
			want := fmt.Sprintf("%sValue '%s' at '%s' failed to satisfy constraint: Member must satisfy enum value set: [", oneFault, test.value, test.member)
			if !strings.HasPrefix(text, want) {
				t.Errorf("got %q, want %q...", text, want)
			}
		})
	}
}

func expectError(t *testing.T, status int, got, want fields) {
	t.Helper()
	if status != 400 {
		t.Errorf("HTTP %d, want 400", status)
	}
	if !maps.Equal(got, want) {
		t.Errorf("got\n%v, want\n%v", got, want)
	}
}

// testErrorBodies: the members of error bodies, the message among them only
// where AWS sends one.
func testErrorBodies(t *testing.T, a *api) {
	symmetric, signing, mac := *a.symmetric(t), *a.signing(t), *a.authenticating(t)
	agreeing := *a.key(t, "ECC_NIST_P256", "KEY_AGREEMENT")
	for _, test := range []struct {
		operation, body string
		want            fields
	}{
		{"Decrypt", `{"CiphertextBlob":"AAAA"}`, fields{"__type": "InvalidCiphertextException"}},
		{"Verify", fmt.Sprintf(`{"KeyId":%q,"Message":"AAAA","Signature":"AAAA","SigningAlgorithm":"ECDSA_SHA_256"}`, signing), fields{"__type": "KMSInvalidSignatureException"}},
		{"VerifyMac", fmt.Sprintf(`{"KeyId":%q,"Message":"AAAA","Mac":"AAAA","MacAlgorithm":"HMAC_SHA_256"}`, mac), fields{"__type": "KMSInvalidMacException"}},
		{"EnableKeyRotation", fmt.Sprintf(`{"KeyId":%q}`, mac), fields{"__type": "UnsupportedOperationException"}},
		{"RotateKeyOnDemand", fmt.Sprintf(`{"KeyId":%q}`, signing), fields{"__type": "UnsupportedOperationException"}},
		{"ListKeyRotations", fmt.Sprintf(`{"KeyId":%q}`, mac), fields{"__type": "UnsupportedOperationException"}},
		{"DeriveSharedSecret", fmt.Sprintf(`{"KeyId":%q,"KeyAgreementAlgorithm":"ECDH","PublicKey":"AAAA"}`, agreeing), fields{"__type": "ValidationException"}},
		{"DescribeKey", `{"KeyId":"fake-key-id"}`, fields{"__type": "NotFoundException", "message": "Invalid keyId 'fake-key-id'"}},
		{"Encrypt", fmt.Sprintf(`{"KeyId":%q,"Plaintext":"AAAA"}`, signing), fields{"__type": "InvalidKeyUsageException", "message": rig.ARN("key/"+signing) + " key usage is SIGN_VERIFY which is not valid for Encrypt."}},
		{"NoSuchOperation", `{}`, fields{"__type": "UnknownOperationException"}},
		{"ListKeys", `{`, fields{"__type": "SerializationException"}},
		{"ListKeys", `{"Limit":"1"}`, fields{"__type": "SerializationException", "message": "STRING_VALUE can not be converted to an Integer"}},
		{"ListKeys", `[]`, fields{"__type": "SerializationException", "message": "Start of list found where not expected"}},
	} {
		t.Run(test.operation, func(t *testing.T) {
			t.Parallel()
			status, out := a.Post(t, test.operation, test.body)
			expectError(t, status, out, test.want)
		})
	}
	t.Run("AccessDenied has a capital letter", func(t *testing.T) {
		t.Parallel()
		status, out := a.wire(t, "GenerateDataKey", fields{"KeyId": symmetric, "KeySpec": "AES_256"})
		if _, ok := out["Message"].(string); status != 400 || !ok || out["__type"] != "AccessDeniedException" {
			t.Errorf("got %d %v", status, out)
		}
	})
	t.Run("unknown members are nothing", func(t *testing.T) {
		t.Parallel()
		a.answer(t, "DescribeKey", fields{"KeyId": symmetric, "NoSuchMember": fields{"a": []int{1}}})
	})
}

// testMembers: the members of answers that AWS always sends, those that it
// sends only where they say something, and times as seconds.
func testMembers(t *testing.T, a *api) {
	made, _ := a.answer(t, "CreateKey", fields{})["KeyMetadata"].(fields)
	id, _ := made["KeyId"].(string)
	metadata := []string{
		"AWSAccountId", "Arn", "CreationDate", "CurrentKeyMaterialId", "CustomerMasterKeySpec", "Description", "Enabled",
		"EncryptionAlgorithms", "KeyId", "KeyManager", "KeySpec", "KeyState", "KeyUsage", "MultiRegion", "Origin",
	}
	members(t, "KeyMetadata", made, metadata...)
	constant := fields{
		"AWSAccountId": rig.Account, "Arn": rig.ARN("key/" + id), "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT", "Description": "",
		"Enabled": true, "KeyManager": "CUSTOMER", "KeySpec": "SYMMETRIC_DEFAULT", "KeyState": "Enabled",
		"KeyUsage": "ENCRYPT_DECRYPT", "MultiRegion": false, "Origin": "AWS_KMS",
	}
	for name, want := range constant {
		if made[name] != want {
			t.Errorf("KeyMetadata.%s is %v, want %v", name, made[name], want)
		}
	}
	if at, ok := made["CreationDate"].(float64); !ok || at < 1.6e9 || at > 1e11 {
		t.Errorf("CreationDate is %v, want seconds since 1970", made["CreationDate"])
	}
	if material, _ := made["CurrentKeyMaterialId"].(string); len(material) != 64 {
		t.Errorf("CurrentKeyMaterialId is %q, want 64 hexadecimal digits", material)
	}
	blob := a.answer(t, "Encrypt", fields{"KeyId": id, "Plaintext": plainB64})
	members(t, "Encrypt", blob, "CiphertextBlob", "EncryptionAlgorithm", "KeyId")
	opened := a.answer(t, "Decrypt", fields{"CiphertextBlob": blob["CiphertextBlob"]})
	members(t, "Decrypt", opened, "EncryptionAlgorithm", "KeyId", "KeyMaterialId", "Plaintext")
	if opened["KeyMaterialId"] != made["CurrentKeyMaterialId"] {
		t.Errorf("Decrypt names the material %v, want %v", opened["KeyMaterialId"], made["CurrentKeyMaterialId"])
	}
	moved := a.answer(t, "ReEncrypt", fields{"CiphertextBlob": blob["CiphertextBlob"], "DestinationKeyId": id})
	members(t, "ReEncrypt", moved, "CiphertextBlob", "DestinationEncryptionAlgorithm", "DestinationKeyMaterialId", "KeyId",
		"SourceEncryptionAlgorithm", "SourceKeyId", "SourceKeyMaterialId")
	members(t, "GenerateDataKeyWithoutPlaintext", a.answer(t, "GenerateDataKeyWithoutPlaintext", fields{"KeyId": id, "KeySpec": "AES_256"}),
		"CiphertextBlob", "KeyId", "KeyMaterialId")
	members(t, "GetKeyRotationStatus", a.answer(t, "GetKeyRotationStatus", fields{"KeyId": id}), "KeyId", "KeyRotationEnabled")
	members(t, "ListAliases", a.answer(t, "ListAliases", fields{"KeyId": id}), "Aliases", "Truncated")
	members(t, "ListResourceTags", a.answer(t, "ListResourceTags", fields{"KeyId": id}), "Tags", "Truncated")
	members(t, "ListGrants", a.answer(t, "ListGrants", fields{"KeyId": id}), "Grants", "Truncated")
	members(t, "ListKeyPolicies", a.answer(t, "ListKeyPolicies", fields{"KeyId": id}), "PolicyNames", "Truncated")
	members(t, "ListKeyRotations", a.answer(t, "ListKeyRotations", fields{"KeyId": id}), "Rotations", "Truncated")
	members(t, "DescribeCustomKeyStores", a.answer(t, "DescribeCustomKeyStores", fields{}), "CustomKeyStores", "Truncated")
	members(t, "GetKeyPolicy", a.answer(t, "GetKeyPolicy", fields{"KeyId": id}), "Policy", "PolicyName")
	members(t, "GetKeyLastUsage", a.answer(t, "GetKeyLastUsage", fields{"KeyId": id}), "KeyCreationDate", "KeyId", "KeyLastUsage", "TrackingStartDate")
	for _, nothing := range []string{"EnableKey", "DisableKey", "EnableKey", "EnableKeyRotation", "DisableKeyRotation"} {
		members(t, nothing, a.answer(t, nothing, fields{"KeyId": id}))
	}
	for _, tags := range [][]fields{nil, {{"TagKey": "k", "TagValue": "v"}}} {
		primary, _ := a.answer(t, "CreateKey", fields{"MultiRegion": true})["KeyMetadata"].(fields)
		want := []string{"ReplicaKeyMetadata", "ReplicaPolicy"}
		if tags != nil {
			want = append(want, "ReplicaTags")
		}
		members(t, "ReplicateKey", a.answer(t, "ReplicateKey", fields{"KeyId": primary["KeyId"], "ReplicaRegion": otherRegion, "Tags": tags}), want...)
	}
	due := a.answer(t, "ScheduleKeyDeletion", fields{"KeyId": id})
	members(t, "ScheduleKeyDeletion", due, "DeletionDate", "KeyId", "KeyState", "PendingWindowInDays")
	if due["PendingWindowInDays"] != 30.0 || due["KeyState"] != "PendingDeletion" {
		t.Errorf("ScheduleKeyDeletion answers %v", due)
	}
	pending, _ := a.answer(t, "DescribeKey", fields{"KeyId": id})["KeyMetadata"].(fields)
	members(t, "KeyMetadata of a key pending deletion", pending, append(metadata, "DeletionDate")...)
	members(t, "CancelKeyDeletion", a.answer(t, "CancelKeyDeletion", fields{"KeyId": id}), "KeyId")
	cancelled, _ := a.answer(t, "DescribeKey", fields{"KeyId": id})["KeyMetadata"].(fields)
	members(t, "KeyMetadata of a key whose deletion was cancelled", cancelled, metadata...)
	if cancelled["KeyState"] != "Disabled" || cancelled["Enabled"] != false {
		t.Errorf("after CancelKeyDeletion the key is %v, want Disabled", cancelled["KeyState"])
	}
}

// testLongRequests: no request is so long that its record cannot be written,
// which would be a 500 for a lasting condition.
func testLongRequests(t *testing.T, a *api) {
	id := *a.symmetric(t)
	many := func(n int, key func(i int) string) fields {
		all := fields{}
		for i := range n {
			all[key(i)] = ""
		}
		return all
	}
	tags := make([]fields, 3000)
	for i := range tags {
		tags[i] = fields{"TagKey": fmt.Sprintf("k%d", i), "TagValue": strings.Repeat("v", 250)}
	}
	wide := func(i int) string { return fmt.Sprintf("%d%s", i, strings.Repeat("k", 120)) }
	for _, test := range []struct {
		name, operation string
		in              fields
		code            string // "" is success
	}{
		{"description", "CreateKey", fields{"Description": strings.Repeat("d", 1_000_000)}, "ValidationException"},
		{"policy", "CreateKey", fields{"Policy": strings.Repeat("ÿ", 131072)}, "LimitExceededException"},
		{"tags", "TagResource", fields{"KeyId": id, "Tags": tags}, "TagException"},
		{"tags to remove", "UntagResource", fields{"KeyId": id, "TagKeys": slices.Collect(maps.Keys(many(7000, wide)))}, ""},
		{"context", "Encrypt", fields{"KeyId": id, "Plaintext": plainB64, "EncryptionContext": many(7000, wide)}, "ValidationException"},
		{"context that is not too long", "Encrypt", fields{"KeyId": id, "Plaintext": plainB64, "EncryptionContext": many(60, wide)}, ""},
		{"constraint", "CreateGrant", fields{
			"KeyId": id, "GranteePrincipal": someone, "Operations": []string{"Decrypt"},
			"Constraints": fields{"EncryptionContextSubset": many(5000, wide)},
		}, "ValidationException"},
		{"operations", "CreateGrant", fields{"KeyId": id, "GranteePrincipal": someone, "Operations": slices.Repeat([]string{"Decrypt"}, 80_000)}, ""},
		{"too large", "CreateKey", fields{"Description": strings.Repeat("d", 1<<20)}, "RequestEntityTooLargeException"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			status, out := a.wire(t, test.operation, test.in)
			if code, _ := out["__type"].(string); code != test.code || status >= 500 {
				t.Errorf("%d %s, want %q", status, code, test.code)
			}
		})
	}
}

// members compares the names of the members with those wanted.
func members(t *testing.T, what string, got fields, want ...string) {
	t.Helper()
	slices.Sort(want)
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
		t.Errorf("%s has\n%v, want\n%v", what, names, want)
	}
}
