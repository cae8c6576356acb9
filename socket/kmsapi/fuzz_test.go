package kmsapi_test

import (
	"bytes"
	"errors"
	"net/http"
	"reflect"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"cmkd/socket/kmsapi"
)

// FuzzDecode reads any bytes as the input of any operation. What is accepted must survive being written and read.
func FuzzDecode(f *testing.F) {
	for i := range kmsapi.Operations {
		f.Add(uint8(i), []byte(`{"KeyId":"k"}`))
	}
	for _, body := range []string{
		``, `null`, `[]`, `{}x`, `{"Limit":1.5e2,"Limit":1}`,
		`{"KeyId":"k","Plaintext":"\/\/\/\/","EncryptionContext":{"a":"b","\u0061":null},"DryRun":false}`,
		`{"KeyId":"k","Tags":[{"TagKey":"a","TagValue":"b"},null,{}],"X":[[[{}]]]}`,
		`{"KeyId":"k","Operations":["Decrypt",""],"Constraints":{"EncryptionContextSubset":{}}}`,
		`{"KeyId":"k","ValidTo":-1e10,"ImportToken":"AA==","EncryptedKeyMaterial":"AA=="}`,
		`{"Recipient":{"AttestationDocument":"?"}}`,
	} {
		for i := range kmsapi.Operations {
			f.Add(uint8(i), []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		op := kmsapi.Operations[int(which)%len(kmsapi.Operations)]
		in := op.NewInput()
		before := bytes.Clone(body)
		err := in.Decode(body)
		if !bytes.Equal(body, before) {
			t.Fatal("Decode wrote to the body")
		}
		if err != nil {
			code, message := refusal(t, err)
			if code != kmsapi.CodeSerializationException && code != kmsapi.CodeValidationException {
				t.Fatalf("%s: %s", code, message)
			}
			if answer := kmsapi.AnswerError(&kmsapi.Error{Code: code, Message: message}); !utf8.Valid(answer.Body) {
				t.Fatalf("the refusal is not UTF-8: %q", answer.Body)
			}
			return
		}
		// Required members with zero values are left out by toWire: nothing else may be missing.
		again, wire := op.NewInput(), marshal(t, toWire(reflect.ValueOf(in)))
		if code, message := refusal(t, again.Decode(wire)); code == kmsapi.CodeSerializationException {
			t.Fatalf("%s from %s: %s", wire, body, message)
		}
		if got := marshal(t, toWire(reflect.ValueOf(again))); !bytes.Equal(got, wire) {
			t.Fatalf("read %s, wrote %s, read %s", body, wire, got)
		}
	})
}

// FuzzAnswer writes outputs with any contents and has the SDK read them back.
func FuzzAnswer(f *testing.F) {
	f.Add("k", []byte{0}, "a", "b", int64(1715800000123), int32(7), true)
	f.Add("\"\\/\x00\x7f\u2028\U0001F600", []byte{}, "", "<&>", int64(-1), int32(0), false)
	var answer kmsapi.Answer
	c := clientOver(direct{kmsapi.NewHandler(dispatcher(func(*kmsapi.Request) *kmsapi.Answer { return &answer }))})
	f.Fuzz(func(t *testing.T, text string, blob []byte, key, value string, ms int64, n int32, yes bool) {
		const century = 100 * 365 * 24 * 3600 * 1000
		if !utf8.ValidString(text) || !utf8.ValidString(key) || !utf8.ValidString(value) {
			t.Skip("such text becomes U+FFFD")
		}
		at := time.UnixMilli(ms % century).UTC()

		grants := kmsapi.ListGrantsResponse{NextMarker: text, Truncated: yes, Grants: []kmsapi.GrantListEntry{
			{},
			{Name: text, CreationDate: at, Operations: []kmsapi.GrantOperation{"Decrypt", kmsapi.GrantOperation(text)}, Constraints: &kmsapi.GrantConstraints{EncryptionContextEquals: map[string]string{key: value, text: text}}},
		}}
		answer = kmsapi.Answer{Status: http.StatusOK, Body: grants.AppendJSON(nil)}
		listed, err := c.ListGrants(t.Context(), &kms.ListGrantsInput{KeyId: aws.String("k")})
		if err != nil {
			t.Fatalf("%v in %s", err, answer.Body)
		}
		want := []types.GrantListEntry{
			{Name: aws.String("")},
			{Name: &text, CreationDate: &at, Operations: []types.GrantOperation{"Decrypt", types.GrantOperation(text)}, Constraints: &types.GrantConstraints{EncryptionContextEquals: map[string]string{key: value, text: text}}},
		}
		if !reflect.DeepEqual(listed.Grants, want) || aws.ToString(listed.NextMarker) != text || listed.Truncated != yes {
			t.Fatalf("the SDK reads %s as %+v", answer.Body, listed)
		}

		status := kmsapi.GetKeyRotationStatusResponse{KeyId: text, KeyRotationEnabled: yes, RotationPeriodInDays: n, NextRotationDate: at}
		answer = kmsapi.Answer{Status: http.StatusOK, Body: status.AppendJSON(nil)}
		rotation, err := c.GetKeyRotationStatus(t.Context(), &kms.GetKeyRotationStatusInput{KeyId: aws.String("k")})
		if err != nil {
			t.Fatalf("%v in %s", err, answer.Body)
		}
		if aws.ToString(rotation.KeyId) != text || rotation.KeyRotationEnabled != yes || aws.ToInt32(rotation.RotationPeriodInDays) != n || !rotation.NextRotationDate.Equal(at) {
			t.Fatalf("the SDK reads %s as %+v", answer.Body, rotation)
		}

		decrypted := kmsapi.DecryptResponse{KeyId: text, Plaintext: blob}
		answer = kmsapi.Answer{Status: http.StatusOK, Body: decrypted.AppendJSON(nil)}
		plain, err := c.Decrypt(t.Context(), &kms.DecryptInput{})
		if err != nil {
			t.Fatalf("%v in %s", err, answer.Body)
		}
		if !bytes.Equal(plain.Plaintext, blob) || aws.ToString(plain.KeyId) != text {
			t.Fatalf("the SDK reads %s as %+v", answer.Body, plain)
		}

		answer = *kmsapi.AnswerError(kmsapi.Errorf(kmsapi.CodeAccessDeniedException, "%s", text))
		_, err = c.ListKeys(t.Context(), &kms.ListKeysInput{})
		said := text
		if said == "" {
			said = "UnknownError" // the SDK's word for no message
		}
		var failure smithy.APIError
		if !errors.As(err, &failure) || failure.ErrorCode() != kmsapi.CodeAccessDeniedException || failure.ErrorMessage() != said {
			t.Fatalf("the SDK reads %s as %v", answer.Body, err)
		}
	})
}
