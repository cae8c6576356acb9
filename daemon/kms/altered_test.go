package kms_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"testing"
	"time"

	"cmkd/daemon/journal"
	"cmkd/daemon/policy"
	"cmkd/testenv/memory"
)

const (
	invalidCiphertext = "InvalidCiphertextException"
	accessDenied      = "AccessDeniedException"
	incorrectKey      = "IncorrectKeyException"

	// Where a blob has its key ID, behind the byte that says which form it has.
	idForm, idBegin, idEnd = 2, 3, 19
)

// flips yields data with each of its bits changed, one at a time.
func flips(data []byte) func(func(bit int, changed []byte) bool) {
	return func(yield func(int, []byte) bool) {
		for bit := range 8 * len(data) {
			changed := bytes.Clone(data)
			changed[bit/8] ^= 1 << (bit % 8)
			if !yield(bit, changed) {
				return
			}
		}
	}
}

// seal encrypts under a key.
func (s *inMemory) seal(keyID string) []byte {
	s.t.Helper()
	text, _ := s.call("", "Encrypt", map[string]any{"KeyId": keyID, "Plaintext": []byte("text")})["CiphertextBlob"].(string)
	blob, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return blob
}

// decrypt returns the code and the message of the answer to Decrypt; keyID may be "".
func (s *inMemory) decrypt(blob []byte, keyID string) (code, message string) {
	s.t.Helper()
	in := map[string]any{"CiphertextBlob": blob}
	if keyID != "" {
		in["KeyId"] = keyID
	}
	code, out := s.ask("Decrypt", in)
	for _, name := range []string{"message", "Message"} {
		if text, ok := out[name].(string); ok {
			message = text
		}
	}
	return code, message
}

// reEncrypt is the code of the answer to ReEncrypt; from may be "".
func (s *inMemory) reEncrypt(blob []byte, from, to string) string {
	s.t.Helper()
	in := map[string]any{"CiphertextBlob": blob, "DestinationKeyId": to}
	if from != "" {
		in["SourceKeyId"] = from
	}
	code, _ := s.ask("ReEncrypt", in)
	return code
}

// importParameters returns an import token of the key, and material wrapped for it.
func (s *inMemory) importParameters(keyID string) (token, material []byte) {
	s.t.Helper()
	out := s.call("", "GetParametersForImport", map[string]any{
		"KeyId": keyID, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048",
	})
	text, _ := out["ImportToken"].(string)
	token, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		s.t.Fatal(err)
	}
	material, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, &memory.Pair().PublicKey, bytes.Repeat([]byte{7}, 32), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return token, material
}

func (s *inMemory) importMaterial(code, keyID string, token, material []byte) {
	s.t.Helper()
	s.call(code, "ImportKeyMaterial", map[string]any{
		"KeyId": keyID, "ImportToken": token, "EncryptedKeyMaterial": material, "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
	})
}

// user has the identity policy, "" for none.
func (s *inMemory) user(name, identity string) *journal.Caller {
	s.t.Helper()
	caller := &journal.Caller{Principal: policy.Principal{
		Type: policy.User, ARN: "arn:aws:iam::" + account + ":user/" + name, AccountID: account, UserName: name,
	}}
	if identity != "" {
		document, err := policy.Parse([]byte(identity), policy.IdentityPolicy)
		if err != nil {
			s.t.Fatal(err)
		}
		caller.Policies = append(caller.Policies, document)
	}
	return caller
}

// TestAlteredBlob changes every bit of ciphertexts under keys of every kind: whoever
// may decrypt is told that it is invalid, whichever key it names by then.
func TestAlteredBlob(t *testing.T) {
	t.Parallel()
	for name, made := range map[string]func(*inMemory) (id string, blob []byte){
		"a key": func(s *inMemory) (string, []byte) {
			id := s.newKey(nil)
			return id, s.seal(id)
		},
		"a multi-Region key": func(s *inMemory) (string, []byte) {
			id := s.newKey(map[string]any{"MultiRegion": true})
			return id, s.seal(id)
		},
		"a replica, of the primary": func(s *inMemory) (string, []byte) {
			id := s.newKey(map[string]any{"MultiRegion": true})
			blob := s.seal(id)
			s.call("", "ReplicateKey", map[string]any{"KeyId": id, "ReplicaRegion": "eu-west-1"})
			s.region = "eu-west-1"
			return id, blob
		},
		"material before a rotation": func(s *inMemory) (string, []byte) {
			id := s.newKey(nil)
			blob := s.seal(id)
			s.call("", "RotateKeyOnDemand", map[string]any{"KeyId": id})
			return id, blob
		},
		"imported material": func(s *inMemory) (string, []byte) {
			id := s.newKey(map[string]any{"Origin": "EXTERNAL"})
			token, material := s.importParameters(id)
			s.importMaterial("", id, token, material)
			return id, s.seal(id)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newInMemory(t)
			id, blob := made(s)
			other := s.newKey(nil)
			if code, message := s.decrypt(blob, ""); code != "" {
				t.Fatalf("the ciphertext as it was made: %s %s", code, message)
			}
			for bit, changed := range flips(blob) {
				if code, message := s.decrypt(changed, ""); code != invalidCiphertext || message != "" {
					t.Errorf("bit %d: Decrypt answers %s %s", bit, code, message)
				}
				if code, message := s.decrypt(changed, id); code != invalidCiphertext || message != "" {
					t.Errorf("bit %d: Decrypt with the key answers %s %s", bit, code, message)
				}
				if code := s.reEncrypt(changed, "", other); code != invalidCiphertext {
					t.Errorf("bit %d: ReEncrypt answers %s", bit, code)
				}
				if code := s.reEncrypt(changed, id, other); code != invalidCiphertext {
					t.Errorf("bit %d: ReEncrypt with the key answers %s", bit, code)
				}
				want := incorrectKey // as for the ciphertext as it was made, unless it does not even look like one
				if !looksWhole(changed) {
					want = invalidCiphertext
				}
				if code, _ := s.decrypt(changed, other); code != want {
					t.Errorf("bit %d: Decrypt with another key answers %s, want %s", bit, code, want)
				}
			}
		})
	}
}

// looksWhole reports whether the bytes have the form of a blob: version, kind, form
// of the key ID and length of the IV.
func looksWhole(blob []byte) bool {
	return blob[0] == 1 && 1 <= blob[1] && blob[1] <= 3 && blob[idForm] <= 1 && blob[51] == 12
}

// TestAlteredToExistingKey writes the ID of one key into the ciphertext of another.
func TestAlteredToExistingKey(t *testing.T) {
	t.Parallel()
	s := newInMemory(t)
	one, two := s.newKey(nil), s.newKey(nil)
	blob := s.seal(one)
	copy(blob[idBegin:idEnd], s.seal(two)[idBegin:idEnd])
	for _, keyID := range []string{"", one, two} {
		if code, _ := s.decrypt(blob, keyID); code != invalidCiphertext {
			t.Errorf("with KeyId %q: %s", keyID, code)
		}
	}
	if code, _ := s.decrypt(blob, s.newKey(nil)); code != incorrectKey {
		t.Errorf("with a third key: %s", code)
	}
}

// TestForeignBlob: ciphertexts that nobody altered, of keys that are not here, are
// answered as by AWS.
func TestForeignBlob(t *testing.T) {
	t.Parallel()
	s, elsewhere := newInMemory(t), newInMemory(t)
	mine := s.newKey(nil)
	gone := s.newKey(nil)
	deleted := s.seal(gone)
	s.call("", "ScheduleKeyDeletion", map[string]any{"KeyId": gone, "PendingWindowInDays": 7})
	if code, _ := s.decrypt(deleted, ""); code != "KMSInvalidStateException" {
		t.Errorf("while the key is pending deletion: %s", code)
	}
	s.later = 8 * 24 * time.Hour
	if n, err := s.service.DeleteDue(t.Context()); n != 1 || err != nil {
		t.Fatalf("%d keys deleted: %v", n, err)
	}
	for name, blob := range map[string][]byte{
		"another installation's": elsewhere.seal(elsewhere.newKey(nil)),
		"a deleted key's":        deleted,
	} {
		code, message := s.decrypt(blob, "")
		if code != accessDenied {
			t.Errorf("%s: %s", name, code)
		}
		if code, _ := s.decrypt(blob, mine); code != incorrectKey {
			t.Errorf("%s, with a key: %s", name, code)
		}
		if code := s.reEncrypt(blob, "", mine); code != accessDenied {
			t.Errorf("%s, to ReEncrypt: %s", name, code)
		}
		// Altered, it cannot be told from one as it was made. With the ID of a key of
		// this Region the tag is wrong.
		for bit, changed := range flips(blob[:idEnd]) {
			changed = slices.Concat(changed, blob[idEnd:])
			want := accessDenied
			if !looksWhole(changed) {
				want = invalidCiphertext
			}
			if got, text := s.decrypt(changed, ""); got != want || want == accessDenied && text != message {
				t.Errorf("%s, bit %d changed: %s %s", name, bit, got, text)
			}
		}
		copy(blob[idBegin:idEnd], s.seal(mine)[idBegin:idEnd])
		if code, _ := s.decrypt(blob, ""); code != invalidCiphertext {
			t.Errorf("%s, with the ID of a key: %s", name, code)
		}
	}
}

// TestAlteredByStrangers: from an altered ciphertext of a key that they may not use,
// callers do not learn whether that key exists.
func TestAlteredByStrangers(t *testing.T) {
	t.Parallel()
	const all = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}`
	s, elsewhere := newInMemory(t), newInMemory(t)
	hidden := s.newKey(map[string]any{"Policy": `{"Version":"2012-10-17","Statement":[` +
		`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"},` +
		`{"Effect":"Deny","Principal":{"AWS":["arn:aws:iam::` + account + `:user/colleague"]},"Action":["kms:Decrypt","kms:ReEncrypt*"],"Resource":"*"}]}`})
	own := s.newKey(map[string]any{"Policy": `{"Version":"2012-10-17","Statement":[` +
		`{"Effect":"Allow","Principal":{"AWS":["arn:aws:iam::` + account + `:root","arn:aws:iam::` + account + `:user/stranger"]},"Action":"kms:*","Resource":"*"}]}`})
	known, unknown := s.seal(hidden), elsewhere.seal(elsewhere.newKey(nil))
	ownID := s.seal(own)[idBegin:idEnd]
	for name, caller := range map[string]*journal.Caller{
		"stranger":  s.user("stranger", ""),
		"colleague": s.user("colleague", all), // may use all keys but this one
	} {
		s.caller = caller
		_, message := s.decrypt(unknown, "")
		for bit := range 8 * (idEnd - idForm) {
			here, there := bytes.Clone(known), bytes.Clone(unknown)
			here[idForm+bit/8] ^= 1 << (bit % 8)
			there[idForm+bit/8] ^= 1 << (bit % 8)
			want := accessDenied
			if !looksWhole(here) {
				want = invalidCiphertext
			}
			if code, text := s.decrypt(here, ""); code != want || want == accessDenied && text != message {
				t.Errorf("%s, bit %d behind the kind changed: %s %s", name, bit, code, text)
			}
			if code, text := s.decrypt(there, ""); code != want || want == accessDenied && text != message {
				t.Errorf("%s, bit %d behind the kind changed, of an unknown key: %s %s", name, bit, code, text)
			}
			if code, _ := s.decrypt(here, own); want == accessDenied && code != incorrectKey {
				t.Errorf("%s, bit %d behind the kind changed, with a key of their own: %s", name, bit, code)
			}
		}
		for _, blob := range [][]byte{known, unknown} {
			changed := bytes.Clone(blob)
			copy(changed[idBegin:idEnd], ownID)
			if code, _ := s.decrypt(changed, ""); code != invalidCiphertext {
				t.Errorf("%s, with the ID of a key of their own: %s", name, code)
			}
			if code, _ := s.decrypt(changed, own); code != invalidCiphertext {
				t.Errorf("%s, with the ID of a key of their own, which is given: %s", name, code)
			}
		}
	}
}

// TestAlteredImportToken: a token that was altered is none, and the one as it was
// given out is good all the same.
func TestAlteredImportToken(t *testing.T) {
	t.Parallel()
	s := newInMemory(t)
	id := s.newKey(map[string]any{"Origin": "EXTERNAL"})
	token, material := s.importParameters(id)
	for _, changed := range flips(token) {
		s.importMaterial("InvalidImportTokenException", id, changed, material)
	}
	s.importMaterial("", id, token, material)
}

// TestAlteredGrantToken: in every operation, with or without a key, a token that was
// altered is none.
func TestAlteredGrantToken(t *testing.T) {
	t.Parallel()
	s := newInMemory(t)
	id := s.newKey(nil)
	blob := s.seal(id)
	token, _ := s.call("", "CreateGrant", map[string]any{
		"KeyId": id, "GranteePrincipal": "arn:aws:iam::" + account + ":root", "Operations": []string{"Decrypt"},
	})["GrantToken"].(string)
	show := func(token string) map[string]map[string]any {
		tokens := []string{token}
		return map[string]map[string]any{
			"Decrypt":     {"CiphertextBlob": blob, "GrantTokens": tokens},
			"ReEncrypt":   {"CiphertextBlob": blob, "DestinationKeyId": id, "GrantTokens": tokens},
			"Encrypt":     {"KeyId": id, "Plaintext": blob, "GrantTokens": tokens},
			"DescribeKey": {"KeyId": id, "GrantTokens": tokens},
			"CreateGrant": {
				"KeyId": id, "GranteePrincipal": "arn:aws:iam::" + account + ":root", "Operations": []string{"Decrypt"}, "GrantTokens": tokens, "DryRun": true,
			},
			"GenerateDataKey": {"KeyId": id, "KeySpec": "AES_256", "GrantTokens": tokens, "DryRun": true},
			"RetireGrant":     {"GrantToken": token},
		}
	}
	raw, err := base64.StdEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	var altered []string
	for _, changed := range flips(raw) {
		altered = append(altered, base64.StdEncoding.EncodeToString(changed))
	}
	for _, changed := range flips([]byte(token)) { // some of which are not text
		altered = append(altered, string(changed))
	}
	for _, token := range altered {
		for operation, in := range show(token) {
			s.call("InvalidGrantTokenException", operation, in)
		}
	}
	whole := show(token)
	s.call("", "Decrypt", whole["Decrypt"])
	s.call("", "RetireGrant", whole["RetireGrant"])
}
