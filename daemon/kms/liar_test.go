package kms_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mlkem"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"log/slog"
	"math/big"
	"path/filepath"
	"testing"

	"cmkd/backends"
	"cmkd/daemon/audit"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/kms"
	"cmkd/daemon/policy"
	"cmkd/daemon/store/storetest"
	"cmkd/socket/kmsapi"
	"cmkd/testenv/memory"
)

// liar is a backend that answers everything in the right form, but for what lie makes
// of the answer.
type liar struct {
	keyring.Backend // what is not asked
	t               *testing.T
	lie             func(answer any)
	ec              *ecdsa.PrivateKey
	objects         []backends.Object
}

const leaked = "a data key that nobody may see.." // 32 bytes

func (l *liar) Route(_ string, spec backends.KeySpec) (keyring.Backend, backends.SpecInfo, bool) {
	return l, backends.SpecInfo{Spec: spec}, true
}
func (l *liar) Available(string, backends.KeySpec) bool { return true }
func (l *liar) Losses(string, backends.KeySpec) int     { return 0 }
func (l *liar) Serving(string, backends.KeySpec) bool   { return true }
func (l *liar) Renew(context.Context, string, backends.KeySpec) error {
	return nil
}

// told is the answer after the lie.
func told[A any](l *liar, a *A) (*A, error) {
	if l.lie != nil {
		l.lie(a)
	}
	return a, nil
}

func sealedOf(n int) backends.Sealed {
	return backends.Sealed{IV: make([]byte, 12), Ciphertext: make([]byte, n+16)}
}

// given is what an answer gives, to the recipient if there is one.
func given(to *backends.Recipient, asked bool, secret []byte) (plaintext, forRecipient []byte) {
	if to != nil {
		forRecipient = make([]byte, 256)
	}
	if asked {
		plaintext = bytes.Clone(secret)
	}
	return plaintext, forRecipient
}

func (l *liar) public(spec backends.KeySpec) []byte {
	var public any
	switch spec {
	case backends.P256:
		public = &l.ec.PublicKey
	case backends.Ed25519:
		public = ed25519.PublicKey(make([]byte, 32))
	case backends.RSA2048:
		public = &memory.Pair().PublicKey
	case backends.RSA4096:
		n := new(big.Int).Lsh(big.NewInt(1), 4095)
		public = &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537}
	case backends.MLKEM768:
		der, err := asn1.Marshal(struct {
			Algorithm pkix.AlgorithmIdentifier
			Key       asn1.BitString
		}{pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 2}}, asn1.BitString{Bytes: make([]byte, mlkem.EncapsulationKeySize768), BitLength: 8 * mlkem.EncapsulationKeySize768}})
		if err != nil {
			l.t.Fatal(err)
		}
		return der
	default:
		return nil
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		l.t.Fatal(err)
	}
	return der
}

func (l *liar) CreateKey(_ context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	l.objects = append(l.objects, backends.Object{ID: in.Key.ID, Label: in.Label})
	return told(l, &backends.CreateKeyAnswer{PublicKey: l.public(in.Key.Spec)})
}

func (l *liar) ListKeys(context.Context, *backends.ListKeysRequest) (*backends.ListKeysAnswer, error) {
	return &backends.ListKeysAnswer{Objects: l.objects}, nil
}

func (l *liar) CheckKey(_ context.Context, in *backends.CheckKeyRequest) (*backends.CheckKeyAnswer, error) {
	return told(l, &backends.CheckKeyAnswer{PublicKey: l.public(in.Key.Spec)})
}

func (l *liar) DestroyKey(context.Context, *backends.DestroyKeyRequest) (*backends.DestroyKeyAnswer, error) {
	return &backends.DestroyKeyAnswer{Objects: 1}, nil
}

func (l *liar) ImportKey(_ context.Context, in *backends.ImportKeyRequest) (*backends.ImportKeyAnswer, error) {
	return told(l, &backends.ImportKeyAnswer{PublicKey: l.public(in.Key.Spec), CheckValue: make([]byte, 32)})
}

func (l *liar) Encrypt(_ context.Context, in *backends.EncryptRequest) (*backends.EncryptAnswer, error) {
	if in.Key.Spec == backends.RSA2048 {
		return told(l, &backends.EncryptAnswer{Sealed: backends.Sealed{Ciphertext: make([]byte, 256)}})
	}
	return told(l, &backends.EncryptAnswer{Sealed: sealedOf(len(in.Plaintext))})
}

func (l *liar) Decrypt(_ context.Context, in *backends.DecryptRequest) (*backends.DecryptAnswer, error) {
	secret := make([]byte, max(len(in.Sealed.Ciphertext)-16, 0))
	if in.Key.Spec == backends.RSA2048 {
		secret = secret[:32]
	}
	copy(secret, leaked)
	plaintext, forRecipient := given(in.Recipient, in.Recipient == nil, secret)
	return told(l, &backends.DecryptAnswer{Plaintext: plaintext, ForRecipient: forRecipient})
}

func (l *liar) ReEncrypt(_ context.Context, in *backends.ReEncryptRequest) (*backends.EncryptAnswer, error) {
	return told(l, &backends.EncryptAnswer{Sealed: sealedOf(len(in.Sealed.Ciphertext) - 16)})
}

func (l *liar) GenerateDataKey(_ context.Context, in *backends.GenerateDataKeyRequest) (*backends.GenerateDataKeyAnswer, error) {
	plaintext, forRecipient := given(in.Recipient, in.Plaintext, []byte(leaked)[:in.Length])
	return told(l, &backends.GenerateDataKeyAnswer{Sealed: sealedOf(18 + in.Length + 8), Plaintext: plaintext, ForRecipient: forRecipient})
}

func (l *liar) GenerateDataKeyPair(_ context.Context, in *backends.GenerateDataKeyPairRequest) (*backends.GenerateDataKeyAnswer, error) {
	plaintext, forRecipient := given(in.Recipient, in.Plaintext, []byte(leaked))
	return told(l, &backends.GenerateDataKeyAnswer{Sealed: sealedOf(200), PublicKey: l.public(in.Spec), Plaintext: plaintext, ForRecipient: forRecipient})
}

func (l *liar) OpenDataKey(_ context.Context, in *backends.OpenDataKeyRequest) (*backends.OpenDataKeyAnswer, error) {
	plaintext, forRecipient := given(in.Recipient, in.Plaintext, []byte(leaked))
	return told(l, &backends.OpenDataKeyAnswer{Plaintext: plaintext, ForRecipient: forRecipient})
}

func (l *liar) GenerateRandom(_ context.Context, in *backends.GenerateRandomRequest) (*backends.GenerateRandomAnswer, error) {
	plaintext, forRecipient := given(in.Recipient, in.Recipient == nil, []byte(leaked)[:in.Length])
	return told(l, &backends.GenerateRandomAnswer{Plaintext: plaintext, ForRecipient: forRecipient})
}

func (l *liar) Sign(_ context.Context, in *backends.SignRequest) (*backends.SignAnswer, error) {
	signature := make([]byte, map[backends.KeySpec]int{backends.RSA2048: 256, backends.Ed25519: 64}[in.Key.Spec])
	if in.Key.Spec == backends.P256 {
		digest := in.Message
		if in.Type == backends.Raw {
			sum := sha256.Sum256(in.Message)
			digest = sum[:]
		}
		var err error
		if signature, err = ecdsa.SignASN1(rand.Reader, l.ec, digest); err != nil {
			return nil, err
		}
	}
	return told(l, &backends.SignAnswer{Signature: signature})
}

func (l *liar) Verify(context.Context, *backends.VerifyRequest) (*backends.VerifyAnswer, error) {
	return told(l, &backends.VerifyAnswer{Valid: false})
}

func (l *liar) GenerateMAC(context.Context, *backends.MACRequest) (*backends.MACAnswer, error) {
	return told(l, &backends.MACAnswer{MAC: make([]byte, 32)})
}

func (l *liar) VerifyMAC(context.Context, *backends.VerifyMACRequest) (*backends.VerifyAnswer, error) {
	return told(l, &backends.VerifyAnswer{Valid: false})
}

func (l *liar) DeriveSharedSecret(_ context.Context, in *backends.DeriveSharedSecretRequest) (*backends.DeriveSharedSecretAnswer, error) {
	plaintext, forRecipient := given(in.Recipient, in.Recipient == nil, []byte(leaked))
	return told(l, &backends.DeriveSharedSecretAnswer{SharedSecret: plaintext, ForRecipient: forRecipient})
}

func (l *liar) Encapsulate(context.Context, *backends.EncapsulateRequest) (*backends.EncapsulateAnswer, error) {
	return told(l, &backends.EncapsulateAnswer{SharedSecret: []byte(leaked), Ciphertext: make([]byte, mlkem.CiphertextSize768)})
}

func (l *liar) Decapsulate(context.Context, *backends.DecapsulateRequest) (*backends.DecapsulateAnswer, error) {
	return told(l, &backends.DecapsulateAnswer{SharedSecret: []byte(leaked)})
}

// as makes a lie about answers of one type.
func as[A any](f func(*A)) func(any) {
	return func(answer any) {
		if a, ok := answer.(*A); ok {
			f(a)
		}
	}
}

// deceived is a service on a liar, with keys.
type deceived struct {
	t       *testing.T
	liar    *liar
	service *kms.Service
	caller  *journal.Caller
	key     map[string]string // by spec
	blob    map[string]string // base64
	token   string            // of an import
}

func newDeceived(t *testing.T) *deceived {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	db := storetest.NewStore(t)
	trail, err := audit.Open(audit.Config{Dir: filepath.Join(t.TempDir(), "audit")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = trail.Close() })
	everything, err := policy.Parse([]byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`), policy.IdentityPolicy)
	if err != nil {
		t.Fatal(err)
	}
	d := &deceived{
		t: t, liar: &liar{t: t, ec: ec}, key: map[string]string{}, blob: map[string]string{},
		caller: &journal.Caller{
			Principal: policy.Principal{Type: policy.Root, ARN: "arn:aws:iam::" + account + ":root", AccountID: account},
			Policies:  []*policy.Document{everything}, Admin: true,
		},
	}
	d.service = kms.New(kms.Config{
		Account: account, Region: "us-east-1", Token: "main", Store: db, Trail: trail, Router: d.liar, Logger: slog.New(slog.DiscardHandler),
	})
	if _, err := d.service.Init(t.Context(), "main"); err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]map[string]any{
		"symmetric": {}, "other": {}, "external": {"Origin": "EXTERNAL"},
		"rsa":  {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"},
		"sign": {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}, "pkcs1": {"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"},
		"edwards": {"KeySpec": "ECC_NIST_EDWARDS25519", "KeyUsage": "SIGN_VERIFY"},
		"agree":   {"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT"},
		"mac":     {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}, "kem": {"KeySpec": "ML_KEM_768", "KeyUsage": "ENCAPSULATE_DECAPSULATE"},
	} {
		d.key[name] = d.must("CreateKey", in)["KeyMetadata"].(map[string]any)["KeyId"].(string)
	}
	d.blob["plaintext"] = d.must("Encrypt", map[string]any{"KeyId": d.key["symmetric"], "Plaintext": []byte(leaked)})["CiphertextBlob"].(string)
	d.blob["data key"] = d.must("GenerateDataKeyWithoutPlaintext", map[string]any{"KeyId": d.key["symmetric"], "NumberOfBytes": 32})["CiphertextBlob"].(string)
	d.token = d.must("GetParametersForImport", map[string]any{
		"KeyId": d.key["external"], "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048",
	})["ImportToken"].(string)
	return d
}

func (d *deceived) call(operation string, in map[string]any) (map[string]any, *kmsapi.Answer) {
	d.t.Helper()
	text, err := json.Marshal(in)
	if err != nil {
		d.t.Fatal(err)
	}
	answer := d.service.Dispatch(d.t.Context(), d.caller, &kmsapi.Request{Operation: operation, Body: text, RequestID: "r"})
	out := map[string]any{}
	if err := json.Unmarshal(answer.Body, &out); err != nil {
		d.t.Fatalf("%s: %v: %q", operation, err, answer.Body)
	}
	return out, answer
}

func (d *deceived) must(operation string, in map[string]any) map[string]any {
	d.t.Helper()
	out, answer := d.call(operation, in)
	if answer.Status != 200 {
		d.t.Fatalf("%s: %d %s", operation, answer.Status, answer.Body)
	}
	return out
}
