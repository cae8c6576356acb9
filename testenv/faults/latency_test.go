package faults

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv"
	"cmkd/testenv/callers"
	"cmkd/testenv/rig"
	"cmkd/testenv/shim"
)

// workers is how many calls a plugin has in the module at a time, unless the
// configuration says otherwise.
const workers = 8

// attempts is how often the share is measured before it counts as too low. What keeps workers idle
// in cmkd does so each time, and another process that wants the processors does not.
const attempts = 5

// TestLatency has a module that takes its time with each call, as an HSM in a
// network does: 64 callers keep the workers of a plugin busy with every operation.
// What is measured is the share of their time that workers spend in the module,
// so the machine's speed hardly counts.
func TestLatency(t *testing.T) {
	m := shim.New(t, testenv.Module(t))
	r := rig.New(t, rig.Config{Module: m.Path, Env: variables(m.Env), Process: true, PlaintextDataKeys: true})
	c, ctx := r.Client(""), t.Context()
	key := func(spec types.KeySpec, usage types.KeyUsageType) string {
		out, err := c.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
		if err != nil {
			t.Fatal(err)
		}
		return *out.KeyMetadata.KeyId
	}
	aes := key("", "")
	ecc := key(types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify)
	mac := key(types.KeySpecHmac256, types.KeyUsageTypeGenerateVerifyMac)
	rsa := key(types.KeySpecRsa2048, types.KeyUsageTypeSignVerify)
	agreed := key(types.KeySpecEccNistP256, types.KeyUsageTypeKeyAgreement)
	public, err := c.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &agreed})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &aes, Plaintext: []byte("text")})
	if err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString([]byte("text"))
	delay, length, want := 40*time.Millisecond, 2*time.Second, 0.7 // on a machine that may be loaded
	if long {
		delay, length, want = 2*time.Millisecond, 5*time.Second, 0.9
	}
	// One of them would do for most operations; a call is slow wherever it goes.
	functions := []string{
		"C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt", "C_SignInit", "C_Sign", "C_GenerateKey", "C_WrapKey",
		"C_UnwrapKey", "C_DeriveKey", "C_GetAttributeValue", "C_DestroyObject", "C_GenerateRandom",
	}
	newWatch(t, r) // monitoring must not take workers away
	for _, tt := range []struct{ name, operation, body string }{
		{"Encrypt", "Encrypt", fmt.Sprintf(`{"KeyId":%q,"Plaintext":%q}`, aes, text)},
		{"Decrypt", "Decrypt", fmt.Sprintf(`{"CiphertextBlob":%q}`, base64.StdEncoding.EncodeToString(sealed.CiphertextBlob))},
		{"GenerateDataKey", "GenerateDataKey", fmt.Sprintf(`{"KeyId":%q,"KeySpec":"AES_256"}`, aes)},
		{"Sign with P-256", "Sign", fmt.Sprintf(`{"KeyId":%q,"Message":%q,"SigningAlgorithm":"ECDSA_SHA_256"}`, ecc, text)},
		{"GenerateMac", "GenerateMac", fmt.Sprintf(`{"KeyId":%q,"Message":%q,"MacAlgorithm":"HMAC_SHA_256"}`, mac, text)},
		{"Sign with RSA", "Sign", fmt.Sprintf(`{"KeyId":%q,"Message":%q,"SigningAlgorithm":"RSASSA_PSS_SHA_256"}`, rsa, text)},
		{"DeriveSharedSecret", "DeriveSharedSecret", fmt.Sprintf(`{"KeyId":%q,"KeyAgreementAlgorithm":"ECDH","PublicKey":%q}`,
			agreed, base64.StdEncoding.EncodeToString(public.PublicKey))},
		{"GenerateRandom", "GenerateRandom", `{"NumberOfBytes":32}`},
	} {
		if !long && tt.name != "Sign with P-256" && tt.name != "GenerateDataKey" {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			calls := func() (n uint64) {
				for _, f := range functions {
					n += m.Control.Calls(f)
				}
				return n
			}
			// The first call looks for the key and checks it, and the others wait.
			once := callers.Options{Socket: r.Socket, Request: request(tt.operation, tt.body), Callers: 64}
			if _, err := callers.Run(ctx, once, 0); err != nil {
				t.Fatal(err)
			}
			for _, f := range functions {
				m.Control.Set(f, shim.Delay(delay))
			}
			defer m.Control.ClearAll()
			want := want
			if tt.name == "Sign with RSA" {
				want -= 0.15 // SoftHSM2 computes 0.7 ms a call, with the processors that everybody else needs
			}
			share := 0.0
			for range attempts {
				before, inside := calls(), m.Control.Inside()
				result, err := callers.Run(ctx, callers.Options{Socket: r.Socket, Request: request(tt.operation, tt.body), Callers: 64}, length)
				if err != nil {
					t.Fatal(err)
				}
				share = (m.Control.Inside() - inside).Seconds() / (workers * result.Took.Seconds())
				t.Logf("%d calls, %.0f a second, %.1f in the module each: workers busy for %.0f %% of the time",
					result.Calls, float64(result.Calls)/result.Took.Seconds(), float64(calls()-before)/float64(result.Calls), 100*share)
				if share >= want {
					return
				}
			}
			t.Errorf("the workers are in the module for %.0f %% of the time, want %.0f %%", 100*share, 100*want)
		})
	}
}
