package kmsapi_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"cmkd/socket/kmsapi"
)

func TestAppendJSON(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		out  kmsapi.Output
		want string
	}{
		{"no output", &kmsapi.CreateAliasResponse{}, ``},
		{"output without members", &kmsapi.ConnectCustomKeyStoreResponse{}, `{}`},
		{"nothing set", &kmsapi.EncryptResponse{}, `{}`},
		{"false is sent", &kmsapi.VerifyResponse{KeyId: "k"}, `{"KeyId":"k","SignatureValid":false}`},
		{"an empty page", &kmsapi.ListKeysResponse{}, `{"Keys":[],"Truncated":false}`},
		{"a key without a description", &kmsapi.DescribeKeyResponse{KeyMetadata: &kmsapi.KeyMetadata{KeyId: "k", SigningAlgorithms: []kmsapi.SigningAlgorithmSpec{}}}, `{"KeyMetadata":{"KeyId":"k","Enabled":false,"Description":"","SigningAlgorithms":[],"MultiRegion":false}}`},
		{"a grant without a name", &kmsapi.ListGrantsResponse{Grants: []kmsapi.GrantListEntry{{GrantId: "g"}}}, `{"Grants":[{"GrantId":"g","Name":""}],"Truncated":false}`},
		{"sorted context", &kmsapi.ListGrantsResponse{Grants: []kmsapi.GrantListEntry{{Constraints: &kmsapi.GrantConstraints{EncryptionContextEquals: map[string]string{"b": "2", "a": "1", "": ""}, EncryptionContextSubset: map[string]string{}}}}}, `{"Grants":[{"Name":"","Constraints":{"EncryptionContextSubset":{},"EncryptionContextEquals":{"":"","a":"1","b":"2"}}}],"Truncated":false}`},
		{"escapes", &kmsapi.GetKeyPolicyResponse{Policy: "{\n\"\\\x01é\u2028</>"}, `{"Policy":"{\n\"\\\u0001é` + "\u2028" + `</>"}`},
		{"not UTF-8", &kmsapi.GetKeyPolicyResponse{Policy: "\xff"}, `{"Policy":"` + "\ufffd" + `"}`},
		{"whole seconds", &kmsapi.ScheduleKeyDeletionResponse{DeletionDate: time.Unix(1715800000, 0)}, `{"DeletionDate":1715800000}`},
		{"milliseconds", &kmsapi.ScheduleKeyDeletionResponse{DeletionDate: time.UnixMilli(1715800000012)}, `{"DeletionDate":1715800000.012}`},
		{"tenths", &kmsapi.ScheduleKeyDeletionResponse{DeletionDate: time.Unix(1715800000, 500_999_999)}, `{"DeletionDate":1715800000.5}`},
		{"before the epoch", &kmsapi.ScheduleKeyDeletionResponse{DeletionDate: time.UnixMilli(-1500)}, `{"DeletionDate":-1.5}`},
		{"the epoch", &kmsapi.ScheduleKeyDeletionResponse{DeletionDate: time.Unix(0, 0)}, `{"DeletionDate":0}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := string(tt.out.AppendJSON([]byte("before"))); got != "before"+tt.want {
				t.Errorf("encoded %s\nwant    before%s", got, tt.want)
			}
		})
	}
}

func TestErrorJSON(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err    *kmsapi.Error
		status int
		want   string
		text   string
	}{
		{kmsapi.Errorf(kmsapi.CodeNotFoundException, "Key '%s' does not exist", "k"), 400, `{"__type":"NotFoundException","message":"Key 'k' does not exist"}`, "NotFoundException: Key 'k' does not exist"},
		{&kmsapi.Error{Code: kmsapi.CodeInvalidCiphertextException}, 400, `{"__type":"InvalidCiphertextException"}`, "InvalidCiphertextException"},
		{kmsapi.Errorf(kmsapi.CodeAccessDeniedException, "no"), 400, `{"__type":"AccessDeniedException","Message":"no"}`, "AccessDeniedException: no"},
		{kmsapi.Errorf(kmsapi.CodeAlreadyExistsException, `"%d"`, 1), 400, `{"__type":"AlreadyExistsException","message":"\"1\""}`, `AlreadyExistsException: "1"`},
		{kmsapi.Errorf(kmsapi.CodeRequestEntityTooLarge, "big"), 413, `{"__type":"RequestEntityTooLargeException","message":"big"}`, "RequestEntityTooLargeException: big"},
	} {
		if got := tt.err.Status(); got != tt.status {
			t.Errorf("%v: status %d, want %d", tt.err, got, tt.status)
		}
		if got := string(tt.err.AppendJSON(nil)); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.err, got, tt.want)
		}
		if got := tt.err.Error(); got != tt.text {
			t.Errorf("%s, want %s", got, tt.text)
		}
	}
}

// TestOnlyFaultsAre500 goes through every error of the model: SDKs repeat calls that fail with a 500.
func TestOnlyFaultsAre500(t *testing.T) {
	t.Parallel()
	faults := []string{kmsapi.CodeKMSInternalException, kmsapi.CodeDependencyTimeoutException, kmsapi.CodeKeyUnavailableException, kmsapi.CodeInternalFailure}
	codes := []string{kmsapi.CodeInternalFailure, kmsapi.CodeThrottlingException, kmsapi.CodeAccessDeniedException, kmsapi.CodeUnknownOperationException}
	for _, op := range kmsapi.Operations {
		codes = append(codes, op.Errors...)
	}
	for _, code := range codes {
		want := http.StatusBadRequest
		if slices.Contains(faults, code) {
			want = http.StatusInternalServerError
		}
		if got := (&kmsapi.Error{Code: code}).Status(); got != want {
			t.Errorf("%s: status %d, want %d", code, got, want)
		}
	}
}
