package kms_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"

	"cmkd/backends"
)

// TestLyingBackend: of what a plugin that was taken over answers, the daemon notices
// all that is not of the form that the request calls for: the call fails, nothing of the
// answer leaves, and no key is made of it. The lies of the right form come through, as
// SECURITY.md says.
func TestLyingBackend(t *testing.T) {
	t.Parallel()
	d := newDeceived(t)
	recipient := map[string]any{"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": d.liar.public(backends.RSA2048)}
	key := func(name string, more ...any) map[string]any {
		in := map[string]any{"KeyId": d.key[name]}
		for i := 0; i < len(more); i += 2 {
			in[more[i].(string)] = more[i+1]
		}
		return in
	}
	type lie = func(any)
	secret := []byte(leaked)
	pairs := key("symmetric", "KeyPairSpec", "ECC_NIST_P256")
	random := map[string]any{"NumberOfBytes": 32}
	dataKey := key("symmetric", "NumberOfBytes", 32)
	made := func(f func(*backends.GenerateDataKeyAnswer)) lie { return as(f) }
	signed := func(s string) lie { return as(func(a *backends.SignAnswer) { a.Signature = []byte(s) }) }
	enciphered := func(iv, ciphertext int) lie {
		return as(func(a *backends.EncryptAnswer) {
			a.Sealed = backends.Sealed{IV: make([]byte, iv), Ciphertext: make([]byte, ciphertext)}
		})
	}
	public := func(spec backends.KeySpec) lie {
		return as(func(a *backends.CreateKeyAnswer) { a.PublicKey = d.liar.public(spec) })
	}
	with := func(in map[string]any, name string, value any) map[string]any {
		out := map[string]any{name: value}
		for k, v := range in {
			out[k] = v
		}
		return out
	}
	for _, c := range []struct {
		operation string
		in        map[string]any
		lies      map[string]lie
		unnoticed map[string]lie
	}{
		{"GenerateDataKey", with(dataKey, "Recipient", recipient), map[string]lie{
			"plaintext for all":  made(func(a *backends.GenerateDataKeyAnswer) { a.Plaintext = secret }),
			"plaintext alone":    made(func(a *backends.GenerateDataKeyAnswer) { a.Plaintext, a.ForRecipient = secret, nil }),
			"none for recipient": made(func(a *backends.GenerateDataKeyAnswer) { a.ForRecipient = nil }),
			"no ciphertext":      made(func(a *backends.GenerateDataKeyAnswer) { a.Sealed.Ciphertext = nil }),
			"IV of 11 bytes":     made(func(a *backends.GenerateDataKeyAnswer) { a.Sealed.IV = a.Sealed.IV[1:] }),
			"endless ciphertext": made(func(a *backends.GenerateDataKeyAnswer) { a.Sealed.Ciphertext = make([]byte, 6144) }),
			"with a public key":  made(func(a *backends.GenerateDataKeyAnswer) { a.PublicKey = d.liar.public(backends.P256) }),
			"IV in place of text": made(func(a *backends.GenerateDataKeyAnswer) {
				a.Sealed.IV, a.Sealed.Ciphertext = a.Sealed.Ciphertext, a.Sealed.IV
			}),
		}, map[string]lie{
			"a ciphertext of something else": made(func(a *backends.GenerateDataKeyAnswer) { a.Sealed = sealedOf(77) }),
			"for another recipient":          made(func(a *backends.GenerateDataKeyAnswer) { a.ForRecipient = []byte("for somebody else") }),
		}},
		{"GenerateDataKeyWithoutPlaintext", dataKey, map[string]lie{
			"plaintext":     made(func(a *backends.GenerateDataKeyAnswer) { a.Plaintext = secret }),
			"for recipient": made(func(a *backends.GenerateDataKeyAnswer) { a.ForRecipient = secret }),
		}, nil},
		{"GenerateDataKeyPair", with(pairs, "Recipient", recipient), map[string]lie{
			"plaintext":       made(func(a *backends.GenerateDataKeyAnswer) { a.Plaintext = secret }),
			"no public key":   made(func(a *backends.GenerateDataKeyAnswer) { a.PublicKey = nil }),
			"another's spec":  made(func(a *backends.GenerateDataKeyAnswer) { a.PublicKey = d.liar.public(backends.RSA2048) }),
			"text as a key":   made(func(a *backends.GenerateDataKeyAnswer) { a.PublicKey = secret }),
			"key and trailer": made(func(a *backends.GenerateDataKeyAnswer) { a.PublicKey = append(bytes.Clone(a.PublicKey), 0) }),
		}, nil},
		{"GenerateDataKeyPairWithoutPlaintext", pairs, map[string]lie{
			"plaintext": made(func(a *backends.GenerateDataKeyAnswer) { a.Plaintext = secret }),
		}, nil},
		{"Decrypt", map[string]any{"CiphertextBlob": d.blob["data key"], "Recipient": recipient}, map[string]lie{
			"plaintext for all": as(func(a *backends.OpenDataKeyAnswer) { a.Plaintext = secret }),
			"plaintext alone":   as(func(a *backends.OpenDataKeyAnswer) { a.Plaintext, a.ForRecipient = secret, nil }),
			"nothing":           as(func(a *backends.OpenDataKeyAnswer) { a.ForRecipient = nil }),
		}, nil},
		{"Decrypt", map[string]any{"CiphertextBlob": d.blob["plaintext"], "Recipient": recipient}, map[string]lie{
			"plaintext for all": as(func(a *backends.DecryptAnswer) { a.Plaintext = secret }),
			"plaintext alone":   as(func(a *backends.DecryptAnswer) { a.Plaintext, a.ForRecipient = secret, nil }),
		}, nil},
		{"Decrypt", map[string]any{"CiphertextBlob": d.blob["plaintext"]}, map[string]lie{
			"too short":     as(func(a *backends.DecryptAnswer) { a.Plaintext = a.Plaintext[1:] }),
			"too long":      as(func(a *backends.DecryptAnswer) { a.Plaintext = make([]byte, 1<<18) }),
			"for recipient": as(func(a *backends.DecryptAnswer) { a.ForRecipient = secret }),
		}, map[string]lie{"another's plaintext": as(func(a *backends.DecryptAnswer) { copy(a.Plaintext, "somebody else's") })}},
		{"Decrypt", key("rsa", "CiphertextBlob", make([]byte, 256), "EncryptionAlgorithm", "RSAES_OAEP_SHA_256"), map[string]lie{
			"too long": as(func(a *backends.DecryptAnswer) { a.Plaintext = make([]byte, 191) }),
		}, nil},
		{"Encrypt", key("symmetric", "Plaintext", secret), map[string]lie{
			"no IV": enciphered(0, 48), "short": enciphered(12, 47), "long": enciphered(12, 49), "nothing": enciphered(0, 0),
		}, map[string]lie{"noise": as(func(a *backends.EncryptAnswer) { copy(a.Sealed.Ciphertext, "noise") })}},
		{"Encrypt", key("rsa", "Plaintext", secret, "EncryptionAlgorithm", "RSAES_OAEP_SHA_256"), map[string]lie{
			"an IV": enciphered(12, 256), "short": enciphered(0, 255), "the plaintext": as(func(a *backends.EncryptAnswer) { a.Sealed.Ciphertext = secret }),
		}, nil},
		{"ReEncrypt", map[string]any{"CiphertextBlob": d.blob["plaintext"], "DestinationKeyId": d.key["other"]}, map[string]lie{
			"no IV": enciphered(0, 48), "long": enciphered(12, 49),
		}, nil},
		{"GenerateRandom", random, map[string]lie{
			"short": as(func(a *backends.GenerateRandomAnswer) { a.Plaintext = a.Plaintext[1:] }),
			"none":  as(func(a *backends.GenerateRandomAnswer) { a.Plaintext = nil }),
		}, nil},
		{"GenerateRandom", with(random, "Recipient", recipient), map[string]lie{
			"plaintext": as(func(a *backends.GenerateRandomAnswer) { a.Plaintext = secret }),
		}, nil},
		{"Sign", key("sign", "Message", secret, "SigningAlgorithm", "ECDSA_SHA_256"), map[string]lie{
			"nothing": signed(""), "text": signed(leaked), "zeros": signed("\x30\x06\x02\x01\x00\x02\x01\x00"), "negative": signed("\x30\x06\x02\x01\xff\x02\x01\x01"),
			"trailer": as(func(a *backends.SignAnswer) { a.Signature = append(a.Signature, 0) }),
		}, map[string]lie{"one that does not verify": signed("\x30\x06\x02\x01\x01\x02\x01\x01")}},
		{"Sign", key("pkcs1", "Message", secret, "SigningAlgorithm", "RSASSA_PKCS1_V1_5_SHA_256"), map[string]lie{
			"short": as(func(a *backends.SignAnswer) { a.Signature = a.Signature[1:] }),
		}, nil},
		{"Sign", key("edwards", "Message", secret, "SigningAlgorithm", "ED25519_SHA_512"), map[string]lie{
			"long": as(func(a *backends.SignAnswer) { a.Signature = append(a.Signature, 0) }),
		}, nil},
		{"GenerateMac", key("mac", "Message", secret, "MacAlgorithm", "HMAC_SHA_256"), map[string]lie{
			"none": as(func(a *backends.MACAnswer) { a.MAC = nil }), "truncated": as(func(a *backends.MACAnswer) { a.MAC = a.MAC[:16] }),
		}, nil},
		{"DeriveSharedSecret", key("agree", "PublicKey", d.liar.public(backends.P256), "KeyAgreementAlgorithm", "ECDH"), map[string]lie{
			"short": as(func(a *backends.DeriveSharedSecretAnswer) { a.SharedSecret = a.SharedSecret[1:] }),
		}, nil},
		{"DeriveSharedSecret", key("agree", "PublicKey", d.liar.public(backends.P256), "KeyAgreementAlgorithm", "ECDH", "Recipient", recipient), map[string]lie{
			"plaintext": as(func(a *backends.DeriveSharedSecretAnswer) { a.SharedSecret = secret }),
		}, nil},
		{"Encapsulate", key("kem", "EncapsulationAlgorithm", "ML_KEM"), map[string]lie{
			"no secret":        as(func(a *backends.EncapsulateAnswer) { a.SharedSecret = nil }),
			"short ciphertext": as(func(a *backends.EncapsulateAnswer) { a.Ciphertext = a.Ciphertext[1:] }),
		}, nil},
		{"Decapsulate", key("kem", "EncapsulationAlgorithm", "ML_KEM", "SharedSecretCiphertextBlob", make([]byte, 1088)), map[string]lie{
			"short": as(func(a *backends.DecapsulateAnswer) { a.SharedSecret = a.SharedSecret[1:] }),
		}, nil},
		{"CreateKey", map[string]any{"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}, map[string]lie{
			"none": public(backends.HMAC256), "another spec": public(backends.RSA2048), "another kind": public(backends.Ed25519),
		}, map[string]lie{"the same as another's": public(backends.P256)}},
		{"CreateKey", map[string]any{"KeySpec": "RSA_4096", "KeyUsage": "SIGN_VERIFY"}, map[string]lie{"a smaller one": public(backends.RSA2048)}, nil},
		{"CreateKey", map[string]any{}, map[string]lie{"a public key": public(backends.P256)}, nil},
		{"ImportKeyMaterial", key("external", "ImportToken", d.token, "EncryptedKeyMaterial", make([]byte, 256), "ExpirationModel", "KEY_MATERIAL_DOES_NOT_EXPIRE"), map[string]lie{
			"no check value": as(func(a *backends.ImportKeyAnswer) { a.CheckValue = nil }),
			"a public key":   as(func(a *backends.ImportKeyAnswer) { a.PublicKey = d.liar.public(backends.P256) }),
		}, nil},
		{"Verify", key("sign", "Message", secret, "Signature", secret, "SigningAlgorithm", "ECDSA_SHA_256"), nil, map[string]lie{
			"valid": as(func(a *backends.VerifyAnswer) { a.Valid = true }),
		}},
		{"VerifyMac", key("mac", "Message", secret, "Mac", secret, "MacAlgorithm", "HMAC_SHA_256"), nil, map[string]lie{
			"valid": as(func(a *backends.VerifyAnswer) { a.Valid = true }),
		}},
	} {
		keys := d.service.CountKeys().Keys
		for name, lie := range c.lies {
			d.liar.lie = lie
			_, answer := d.call(c.operation, c.in)
			if answer.Status != 500 || !bytes.Contains(answer.Body, []byte("KMSInternalException")) {
				t.Errorf("%s, %s: %d %.200s", c.operation, name, answer.Status, answer.Body)
			}
			if text := string(answer.Body); strings.Contains(text, leaked) || strings.Contains(text, base64.StdEncoding.EncodeToString(secret)) {
				t.Errorf("%s, %s: the secret leaves: %s", c.operation, name, text)
			}
		}
		if c.operation != "ImportKeyMaterial" && len(c.lies) > 0 {
			for label, n := range d.service.CountKeys().Keys {
				if keys[label] != n {
					t.Errorf("%s: %v keys were %d and are %d", c.operation, label, keys[label], n)
				}
			}
		}
		for name, lie := range c.unnoticed {
			d.liar.lie = lie
			if _, answer := d.call(c.operation, c.in); answer.Status != 200 {
				t.Errorf("%s, %s: %d %.200s, though the form is right", c.operation, name, answer.Status, answer.Body)
			}
		}
		d.liar.lie = nil
		if len(c.lies) > 0 { // the request is one that succeeds
			d.must(c.operation, c.in)
		}
	}
}

// TestLyingCheckpoint: a signature that does not verify does not become a checkpoint,
// since the next start would refuse the whole trail.
func TestLyingCheckpoint(t *testing.T) {
	t.Parallel()
	d := newDeceived(t)
	if err := d.service.VerifyState(t.Context()); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("a record"))
	d.liar.lie = as(func(a *backends.SignAnswer) { a.Signature = []byte("\x30\x06\x02\x01\x01\x02\x01\x01") })
	if _, _, err := d.service.SignCheckpoint(t.Context(), digest[:]); err == nil || !strings.Contains(err.Error(), "does not verify") {
		t.Errorf("a wrong signature: %v", err)
	}
	d.liar.lie = nil
	if _, _, err := d.service.SignCheckpoint(t.Context(), digest[:]); err != nil {
		t.Error(err)
	}
}
