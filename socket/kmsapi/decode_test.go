package kmsapi_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"cmkd/socket/kmsapi"
)

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	const (
		form       = kmsapi.CodeSerializationException
		constraint = kmsapi.CodeValidationException
	)
	for _, tt := range []struct {
		name, operation, body string
		code, message         string
	}{
		{"nothing", "Encrypt", ``, constraint, "2 validation errors detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null; Value at 'plaintext' failed to satisfy constraint: Member must not be null"},
		{"empty values", "Encrypt", `{"KeyId":"","Plaintext":""}`, constraint, "3 validation errors detected: Value '' at 'keyId' failed to satisfy constraint: Member must have length greater than or equal to 1; Value '' at 'keyId' failed to satisfy constraint: Member must satisfy regular expression pattern: ^\\p{ASCII}+$; Value at 'plaintext' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"null is absent", "DescribeKey", `{"KeyId":null}`, constraint, "1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null"},
		{"wrong case is unknown", "DescribeKey", `{"keyId":"k","KEYID":"k"}`, constraint, "1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null"},
		{"one value, two constraints", "CreateAlias", `{"AliasName":"","TargetKeyId":"k"}`, constraint, "2 validation errors detected: Value '' at 'aliasName' failed to satisfy constraint: Member must have length greater than or equal to 1; Value '' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"},
		{"line end after the match", "CreateAlias", `{"AliasName":"alias/a\n","TargetKeyId":"k"}`, constraint, "1 validation error detected: Value 'alias/a\n' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"},
		{"enum", "GenerateDataKey", `{"KeyId":"k","KeySpec":"aes_256"}`, constraint, "1 validation error detected: Value 'aes_256' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set: [AES_256, AES_128]"},
		{"range", "ListKeys", `{"Limit":1001}`, constraint, "1 validation error detected: Value '1001' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 1000"},
		{"beyond int32", "ListKeys", `{"Limit":99999999999}`, constraint, "1 validation error detected: Value '99999999999' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 1000"},
		{"list of structures", "TagResource", `{"KeyId":"k","Tags":[{"TagKey":"a","TagValue":""},{"TagKey":"","TagValue":null}]}`, constraint, "2 validation errors detected: Value '' at 'tags.2.member.tagKey' failed to satisfy constraint: Member must have length greater than or equal to 1; Value null at 'tags.2.member.tagValue' failed to satisfy constraint: Member must not be null"},
		{"null item", "TagResource", `{"KeyId":"k","Tags":[null]}`, constraint, "1 validation error detected: Value null at 'tags.1.member' failed to satisfy constraint: Member must not be null"},
		{"null string", "UntagResource", `{"KeyId":"k","TagKeys":["a",null,"b"]}`, constraint, "1 validation error detected: Value null at 'tagKeys.2.member' failed to satisfy constraint: Member must not be null"},
		{"list of strings", "UntagResource", `{"KeyId":"k","TagKeys":["a",""]}`, constraint, "1 validation error detected: Value '[a, ]' at 'tagKeys' failed to satisfy constraint: Member must satisfy constraint: [Member must have length less than or equal to 128, Member must have length greater than or equal to 1]"},
		{"list of enums", "CreateGrant", `{"KeyId":"k","Operations":["Decrypt","Destroy"]}`, constraint, "1 validation error detected: Value '[Decrypt, Destroy]' at 'operations' failed to satisfy constraint: Member must satisfy constraint: [Member must satisfy enum value set: [Decrypt, Encrypt, ..."},
		{"nested", "CreateGrant", `{"KeyId":"k","Operations":[],"Constraints":{"SourceArn":"x"}}`, constraint, "1 validation error detected: Value 'x' at 'constraints.sourceArn' failed to satisfy constraint: Member must have length greater than or equal to 20"},
		{"secret string", "CreateCustomKeyStore", `{"CustomKeyStoreName":"n","KeyStorePassword":"hunter"}`, constraint, "1 validation error detected: Value at 'keyStorePassword' failed to satisfy constraint: Member must have length greater than or equal to 7"},
		{"context value", "Decrypt", `{"EncryptionContext":{"private":null}}`, constraint, "1 validation error detected: Value at 'encryptionContext' failed to satisfy constraint: Map value must satisfy constraint: [Member must not be null]"},

		{"form comes first", "Encrypt", `{"KeyId":"","Plaintext":7}`, form, "NUMBER_VALUE can not be converted to a Blob"},
		{"list as body", "Encrypt", `[]`, form, "Start of list found where not expected"},
		{"null as body", "Encrypt", `null`, form, ""},
		{"string as body", "Encrypt", `"x"`, form, ""},
		{"blank body", "Encrypt", ` `, form, ""},
		{"unfinished", "ListKeys", `{"Limit":1`, form, ""},
		{"unfinished number", "ListKeys", `{"Limit":0.`, form, ""},
		{"unfinished time", "ImportKeyMaterial", `{"ValidTo":-`, form, ""},
		{"unfinished literal", "Encrypt", `{"DryRun":tru`, form, ""},
		{"unfinished null", "Encrypt", `{"DryRun":nul}`, form, ""},
		{"trailing comma", "ListKeys", `{"Limit":1,}`, form, ""},
		{"single quotes", "ListKeys", `{'Limit':1}`, form, ""},
		{"second value", "ListKeys", `{}{}`, form, ""},
		{"trailing bytes", "ListKeys", "{}\x00", form, ""},
		{"duplicate member", "ListKeys", `{"Limit":1,"Limit":1}`, form, "Duplicate member name in object"},
		{"duplicate spelled otherwise", "ListKeys", `{"Limit":1,"\u004cimit":1}`, form, "Duplicate member name in object"},
		{"duplicate in a context", "Decrypt", `{"EncryptionContext":{"a":"1","a":"2"}}`, form, "Duplicate member name in object"},
		{"duplicate in an unknown member", "ListKeys", `{"X":{"a":1,"a":1}}`, form, "Duplicate member name in object"},
		{"bad UTF-8", "DescribeKey", "{\"KeyId\":\"\xff\"}", form, ""},
		{"lone surrogate", "DescribeKey", `{"KeyId":"\ud800"}`, form, ""},
		{"bare control character", "DescribeKey", "{\"KeyId\":\"\n\"}", form, ""},
		{"base64 without padding", "Encrypt", `{"KeyId":"k","Plaintext":"c2VjcmV0cw"}`, form, "Value at 'plaintext' can not be converted to a Blob"},
		{"base64 with stray bits", "Encrypt", `{"KeyId":"k","Plaintext":"c2VjcmV0cx=="}`, form, "Value at 'plaintext' can not be converted to a Blob"},
		{"base64 of the URL alphabet", "Encrypt", `{"KeyId":"k","Plaintext":"-_-_"}`, form, "Value at 'plaintext' can not be converted to a Blob"},
		{"base64 with a line end", "Encrypt", `{"KeyId":"k","Plaintext":"c2Vj\ncmV0"}`, form, "Value at 'plaintext' can not be converted to a Blob"},
		{"base64 nested", "GenerateRandom", `{"Recipient":{"AttestationDocument":"?"}}`, form, "Value at 'recipient.attestationDocument' can not be converted to a Blob"},
		{"time beyond year 9999", "ImportKeyMaterial", `{"ValidTo":1e12}`, form, "NUMBER_VALUE can not be converted to milliseconds since epoch"},
		{"time beyond all bounds", "ImportKeyMaterial", `{"ValidTo":1e999}`, form, "NUMBER_VALUE can not be converted to milliseconds since epoch"},
		{"time as text", "ImportKeyMaterial", `{"ValidTo":"2026-01-01T00:00:00Z"}`, form, "STRING_VALUE can not be converted to milliseconds since epoch"},
		{"unknown member too deep", "ListKeys", `{"X":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, form, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			code, message := refusal(t, operation(t, tt.operation).NewInput().Decode([]byte(tt.body)))
			if start, cut := strings.CutSuffix(tt.message, "..."); cut && strings.HasPrefix(message, start) {
				message = tt.message
			}
			if code != tt.code || message != tt.message {
				t.Errorf("%s: %q\nwant %s: %q", code, message, tt.code, tt.message)
			}
		})
	}
}

func TestDecodeAccepts(t *testing.T) {
	t.Parallel()
	at := func(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
	for _, tt := range []struct {
		name, body string
		in, want   kmsapi.Input
	}{
		{"white space and order", " \n{ \"Plaintext\" : \"AP8=\" ,\t\"KeyId\":\"k\" } ", &kmsapi.EncryptRequest{}, &kmsapi.EncryptRequest{KeyId: "k", Plaintext: []byte{0, 255}}},
		{"escapes", `{"\u004bey\u0049d":"\u006b\/\"\\\n","GrantTokens":["\u0061\ud83d\ude00"]}`, &kmsapi.DescribeKeyRequest{}, &kmsapi.DescribeKeyRequest{KeyId: "k/\"\\\n", GrantTokens: []string{"a\U0001F600"}}},
		{"base64 with escaped slashes, as PHP writes it", `{"KeyId":"k","Plaintext":"\/\/\/\/"}`, &kmsapi.EncryptRequest{}, &kmsapi.EncryptRequest{KeyId: "k", Plaintext: []byte{255, 255, 255}}},
		{"escaped enum", `{"KeyId":"k","KeySpec":"AES\u005f256"}`, &kmsapi.GenerateDataKeyRequest{}, &kmsapi.GenerateDataKeyRequest{KeyId: "k", KeySpec: kmsapi.DataKeySpecAES256}},
		{"escaped context", `{"EncryptionContext":{"\u0061":"\u0062","a\u0062":"","é":"日本"}}`, &kmsapi.DecryptRequest{}, &kmsapi.DecryptRequest{EncryptionContext: map[string]string{"a": "b", "ab": "", "é": "日本"}}},
		{"unknown members", `{"X":{"Limit":[1,{"Limit":"x"}]},"Limit":5,"limit":"x","":null}`, &kmsapi.ListKeysRequest{}, &kmsapi.ListKeysRequest{Limit: 5}},
		{"a fraction is cut off", `{"Limit":1.9}`, &kmsapi.ListKeysRequest{}, &kmsapi.ListKeysRequest{Limit: 1}},
		{"an exponent", `{"Limit":1e2}`, &kmsapi.ListKeysRequest{}, &kmsapi.ListKeysRequest{Limit: 100}},
		{"null everywhere", `{"Limit":null,"Marker":null}`, &kmsapi.ListKeysRequest{}, &kmsapi.ListKeysRequest{}},
		{"null structures", `{"KeyId":"k","Operations":[],"Constraints":null,"GrantTokens":null,"DryRun":null}`, &kmsapi.CreateGrantRequest{}, &kmsapi.CreateGrantRequest{KeyId: "k", Operations: []kmsapi.GrantOperation{}}},
		{"empty body", ``, &kmsapi.ListKeysRequest{}, &kmsapi.ListKeysRequest{}},
		{"what was there before is gone", `{"KeyId":"k"}`, &kmsapi.DescribeKeyRequest{KeyId: "old", GrantTokens: []string{"old"}}, &kmsapi.DescribeKeyRequest{KeyId: "k"}},
		{"milliseconds", `{"KeyId":"k","ImportToken":"AA==","EncryptedKeyMaterial":"AA==","ValidTo":1715800000.1226}`, &kmsapi.ImportKeyMaterialRequest{}, &kmsapi.ImportKeyMaterialRequest{KeyId: "k", ImportToken: []byte{0}, EncryptedKeyMaterial: []byte{0}, ValidTo: at(1715800000123)}},
		{"the epoch is not absent", `{"KeyId":"k","ImportToken":"AA==","EncryptedKeyMaterial":"AA==","ValidTo":0}`, &kmsapi.ImportKeyMaterialRequest{}, &kmsapi.ImportKeyMaterialRequest{KeyId: "k", ImportToken: []byte{0}, EncryptedKeyMaterial: []byte{0}, ValidTo: at(0)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			body := []byte(tt.body)
			if err := tt.in.Decode(body); err != nil {
				t.Fatal(err)
			}
			clear(body) // nothing decoded may alias the body: its buffer is used again
			if !reflect.DeepEqual(tt.in, tt.want) {
				t.Errorf("decoded %+v\nwant    %+v", tt.in, tt.want)
			}
		})
	}
}

// TestManyFaults keeps a small request from earning a huge answer.
func TestManyFaults(t *testing.T) {
	t.Parallel()
	body := `{"KeyId":"k","Tags":[` + strings.Repeat(`{},`, 99_999) + `{}]}`
	code, message := refusal(t, new(kmsapi.TagResourceRequest).Decode([]byte(body)))
	if code != kmsapi.CodeValidationException || !strings.HasPrefix(message, "200000 validation errors detected: Value null at 'tags.1.member.tagKey'") {
		t.Errorf("%s: %.200q", code, message)
	}
	if len(message) > len(body) {
		t.Errorf("a message of %d bytes for a body of %d", len(message), len(body))
	}
}
