// Package backends is the contract between the daemon and the backends that
// hold keys: plain request and answer structs, small interfaces, typed errors.
//
// A backend runs in a process of its own (package plugins carries the calls)
// and holds keys of some kinds in one token. It implements [Backend] and
// whichever of the other interfaces suit its kinds of key. Every method takes
// a context whose deadline bounds the token call behind it, may be called
// concurrently, and reports failures as [*Error]. The package imports the
// standard library only, so that a backend depends on nothing else of cmkd.
package backends

import (
	"context"
	"encoding/hex"
	"fmt"
)

// KeyID is the CKA_ID of a key object: 16 random bytes that the daemon chooses
// before the key exists, which is what makes creation idempotent.
type KeyID [16]byte

// String returns the lower-case hexadecimal form.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements [encoding.TextMarshaler].
func (id KeyID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (id *KeyID) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(id)) {
		return fmt.Errorf("key ID of %d characters, want %d", len(text), hex.EncodedLen(len(id)))
	}
	_, err := hex.Decode(id[:], text)
	return err
}

// KeySpec is an AWS KMS key spec, the kind and size of the key material.
// https://docs.aws.amazon.com/kms/latest/developerguide/symm-asymm-choose-key-spec.html
type KeySpec string

// The key specs of the AWS KMS API.
const (
	SymmetricDefault KeySpec = "SYMMETRIC_DEFAULT" // AES-256
	AES128           KeySpec = "AES_128"           // data keys only
	AES256           KeySpec = "AES_256"           // data keys only
	RSA2048          KeySpec = "RSA_2048"
	RSA3072          KeySpec = "RSA_3072"
	RSA4096          KeySpec = "RSA_4096"
	P256             KeySpec = "ECC_NIST_P256"
	P384             KeySpec = "ECC_NIST_P384"
	P521             KeySpec = "ECC_NIST_P521"
	Secp256k1        KeySpec = "ECC_SECG_P256K1"
	Ed25519          KeySpec = "ECC_NIST_EDWARDS25519"
	HMAC224          KeySpec = "HMAC_224"
	HMAC256          KeySpec = "HMAC_256"
	HMAC384          KeySpec = "HMAC_384"
	HMAC512          KeySpec = "HMAC_512"
	MLDSA44          KeySpec = "ML_DSA_44"
	MLDSA65          KeySpec = "ML_DSA_65"
	MLDSA87          KeySpec = "ML_DSA_87"
	MLKEM512         KeySpec = "ML_KEM_512"
	MLKEM768         KeySpec = "ML_KEM_768"
	MLKEM1024        KeySpec = "ML_KEM_1024"
	SM2              KeySpec = "SM2"
)

// Usage says what a key may do. A key has exactly one usage, and its template
// in the token has only the usage bits (CKA_ENCRYPT and so on) that it needs.
type Usage string

// The usages of the AWS KMS API, and two of cmkd's own that no client sees.
const (
	EncryptDecrypt         Usage = "ENCRYPT_DECRYPT"
	SignVerify             Usage = "SIGN_VERIFY"
	GenerateVerifyMAC      Usage = "GENERATE_VERIFY_MAC"
	KeyAgreement           Usage = "KEY_AGREEMENT"
	EncapsulateDecapsulate Usage = "ENCAPSULATE_DECAPSULATE"

	// WrapDataKeys is the usage of the data-key wrapping key W (AES-256,
	// CKA_WRAP and CKA_UNWRAP only, RFC 5649).
	WrapDataKeys Usage = "WRAP_DATA_KEYS"
	// UnwrapImport is the usage of the RSA pairs that protect key material on
	// its way in (GetParametersForImport). Each serves one import.
	UnwrapImport Usage = "UNWRAP_IMPORT"
)

// Key names one key in the token: one version of a CMK, or one of the daemon's
// own keys. The backend finds it by ID and class and holds what it finds
// against the template that Spec, Usage and Imported call for.
type Key struct {
	ID    KeyID   `cbor:"1,keyasint"`
	Spec  KeySpec `cbor:"2,keyasint"`
	Usage Usage   `cbor:"3,keyasint"`
	// Imported: the material came from outside, so CKA_LOCAL,
	// CKA_ALWAYS_SENSITIVE and CKA_NEVER_EXTRACTABLE are not expected.
	Imported bool `cbor:"4,keyasint,omitempty"`
}

// Backend is what every backend does with the keys of its kinds.
type Backend interface {
	// Info describes the token and announces the key specs served.
	Info(ctx context.Context, in *InfoRequest) (*InfoAnswer, error)
	// CreateKey generates a key in the token. It is idempotent: a key with
	// this ID that is already there and matches its template is the answer.
	CreateKey(ctx context.Context, in *CreateKeyRequest) (*CreateKeyAnswer, error)
	// CheckKey finds the key and reads its attributes back: [KeyMissing],
	// [KeyUnsafe] or [KeyDuplicate] if it cannot be served.
	CheckKey(ctx context.Context, in *CheckKeyRequest) (*CheckKeyAnswer, error)
	// DestroyKey removes every object with this ID and proves that none is
	// left. It is idempotent: a key that is not there is destroyed.
	DestroyKey(ctx context.Context, in *DestroyKeyRequest) (*DestroyKeyAnswer, error)
	// ListKeys lists the objects labelled as cmkd's, for reconciliation. What it
	// says of duplicates counts for the backend's other calls from then on.
	ListKeys(ctx context.Context, in *ListKeysRequest) (*ListKeysAnswer, error)
}

// Cipher encrypts under symmetric or RSA keys of usage [EncryptDecrypt].
type Cipher interface {
	Encrypt(ctx context.Context, in *EncryptRequest) (*EncryptAnswer, error)
	// Decrypt answers [InvalidCiphertext] for every alteration alike.
	Decrypt(ctx context.Context, in *DecryptRequest) (*DecryptAnswer, error)
}

// ReEncrypter moves a ciphertext between two symmetric keys of one token
// without giving the plaintext to the caller.
type ReEncrypter interface {
	ReEncrypt(ctx context.Context, in *ReEncryptRequest) (*EncryptAnswer, error)
}

// DataKeyMaker makes data keys that leave only wrapped: under the data-key
// wrapping key, and that under a CMK.
type DataKeyMaker interface {
	GenerateDataKey(ctx context.Context, in *GenerateDataKeyRequest) (*GenerateDataKeyAnswer, error)
	GenerateDataKeyPair(ctx context.Context, in *GenerateDataKeyPairRequest) (*GenerateDataKeyAnswer, error)
	// OpenDataKey undoes both; see [OpenDataKeyRequest].
	OpenDataKey(ctx context.Context, in *OpenDataKeyRequest) (*OpenDataKeyAnswer, error)
}

// Randomizer returns random bytes of the token (C_GenerateRandom).
type Randomizer interface {
	GenerateRandom(ctx context.Context, in *GenerateRandomRequest) (*GenerateRandomAnswer, error)
}

// Signer signs and verifies with asymmetric keys of usage [SignVerify].
type Signer interface {
	Sign(ctx context.Context, in *SignRequest) (*SignAnswer, error)
	// Verify reports a signature that does not fit in its answer, not as an
	// error.
	Verify(ctx context.Context, in *VerifyRequest) (*VerifyAnswer, error)
}

// MACer computes and verifies HMACs with keys of usage [GenerateVerifyMAC].
type MACer interface {
	GenerateMAC(ctx context.Context, in *MACRequest) (*MACAnswer, error)
	VerifyMAC(ctx context.Context, in *VerifyMACRequest) (*VerifyAnswer, error)
}

// Agreer derives shared secrets by ECDH with keys of usage [KeyAgreement].
type Agreer interface {
	DeriveSharedSecret(ctx context.Context, in *DeriveSharedSecretRequest) (*DeriveSharedSecretAnswer, error)
}

// Importer brings key material from outside into the token. The wrapping pair
// is made with CreateKey (an RSA spec, usage [UnwrapImport]).
type Importer interface {
	ImportKey(ctx context.Context, in *ImportKeyRequest) (*ImportKeyAnswer, error)
}

// Encapsulator does key encapsulation with keys of usage
// [EncapsulateDecapsulate] (PKCS#11 3.2, C_EncapsulateKey).
type Encapsulator interface {
	Encapsulate(ctx context.Context, in *EncapsulateRequest) (*EncapsulateAnswer, error)
	Decapsulate(ctx context.Context, in *DecapsulateRequest) (*DecapsulateAnswer, error)
}
