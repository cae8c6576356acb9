package backends

// The structs below travel between the processes as CBOR (RFC 8949) with
// integer keys. Keys are never reused; a new field takes the next number.

// InfoRequest asks for [InfoAnswer].
type InfoRequest struct {
	// Prove: the token itself must answer something now, or the error says that it
	// does not.
	Prove bool `cbor:"1,keyasint,omitempty"`
}

// InfoAnswer describes a backend and its token.
type InfoAnswer struct {
	// Specs are the key specs of this backend's kinds, the ones that this
	// token cannot do included.
	Specs []SpecInfo `cbor:"1,keyasint"`
	Token TokenInfo  `cbor:"2,keyasint"`
	// Facts are what probing the token found, for operators to read
	// ("oaep-sha256": "no", "aes-key-wrap-pad": "0x210A", …).
	Facts map[string]string `cbor:"3,keyasint,omitempty"`
}

// SpecInfo says whether keys of a spec can be made in this token.
type SpecInfo struct {
	Spec   KeySpec `cbor:"1,keyasint"`
	Usages []Usage `cbor:"2,keyasint"`
	// Unsupported is why not: the mechanism that the token lacks, such as
	// "CKM_ML_DSA_KEY_PAIR_GEN". Empty: supported.
	Unsupported string `cbor:"3,keyasint,omitempty"`
}

// TokenInfo is CK_TOKEN_INFO as far as it names the token.
type TokenInfo struct {
	Label        string `cbor:"1,keyasint"`
	Serial       string `cbor:"2,keyasint"`
	Manufacturer string `cbor:"3,keyasint"`
	Model        string `cbor:"4,keyasint"`
	Firmware     string `cbor:"5,keyasint"`
	// OpenSessions is how many sessions this backend holds now.
	OpenSessions int `cbor:"6,keyasint"`
	// Keys is how many of cmkd's key objects the token held when it was opened.
	Keys int `cbor:"7,keyasint"`
	// Limits say what the token cannot do now that it should, such as to open
	// another session or to make another object.
	Limits []string `cbor:"8,keyasint,omitempty"`
	// ReadOnly: it is write-protected, which Limits say, too.
	ReadOnly bool `cbor:"9,keyasint,omitempty"`
}

// CreateKeyRequest asks for a new key. Label becomes CKA_LABEL
// ("cmkd:<key id>:<version>").
type CreateKeyRequest struct {
	Key   Key    `cbor:"1,keyasint"`
	Label string `cbor:"2,keyasint"`
}

// CreateKeyAnswer carries the DER SubjectPublicKeyInfo (RFC 5280) of an
// asymmetric key.
type CreateKeyAnswer struct {
	PublicKey []byte `cbor:"1,keyasint,omitempty"`
	// Existed: the key was already there (a repeated creation).
	Existed bool `cbor:"2,keyasint,omitempty"`
	// Unsure: an attempt before the one that made the key was answered as by a token that is
	// lost, or full. What it may make yet has the same CKA_ID.
	Unsure bool `cbor:"3,keyasint,omitempty"`
}

// CheckKeyRequest names the key to look at.
type CheckKeyRequest struct {
	Key Key `cbor:"1,keyasint"`
}

// CheckKeyAnswer carries the public key of an asymmetric key, as
// [CreateKeyAnswer] does.
type CheckKeyAnswer struct {
	PublicKey []byte `cbor:"1,keyasint,omitempty"`
}

// DestroyKeyRequest names the key to destroy.
type DestroyKeyRequest struct {
	Key Key `cbor:"1,keyasint"`
	// Elsewhere: another process may have destroyed it, through another member of the token.
	// Else a key that was there and is not found is a sign of a token that is [Lost].
	Elsewhere bool `cbor:"2,keyasint,omitempty"`
}

// DestroyKeyAnswer counts the objects destroyed: 0 if there was none.
type DestroyKeyAnswer struct {
	Objects int `cbor:"1,keyasint"`
}

// ListKeysRequest asks for [ListKeysAnswer].
type ListKeysRequest struct {
	// Known: of the kinds of key that the backend serves, what it has seen since it
	// opened the token is enough. It need not search the token for more.
	Known bool `cbor:"1,keyasint,omitempty"`
}

// ListKeysAnswer lists secret and private key objects whose label starts with
// "cmkd:".
type ListKeysAnswer struct {
	Objects []Object `cbor:"1,keyasint"`
}

// Object is a key object found in the token.
type Object struct {
	ID    KeyID  `cbor:"1,keyasint"`
	Label string `cbor:"2,keyasint"`
	// Duplicate: the token has two objects of one class with this CKA_ID, of
	// which this one, its public key or both are one.
	Duplicate bool `cbor:"3,keyasint,omitempty"`
}

// Algorithm is an AWS KMS algorithm name: an EncryptionAlgorithmSpec,
// SigningAlgorithmSpec, MacAlgorithmSpec or AlgorithmSpec (import), such as
// "RSAES_OAEP_SHA_256".
type Algorithm string

// Sealed is an AES-256-GCM ciphertext (NIST SP 800-38D).
type Sealed struct {
	// IV is 12 bytes, made in the token.
	IV []byte `cbor:"1,keyasint,omitempty"`
	// Ciphertext ends in the 16-byte tag. Of an RSA key it is the whole
	// ciphertext, and IV is empty.
	Ciphertext []byte `cbor:"2,keyasint"`
}

// EncryptRequest encrypts Plaintext, at most 4,096 bytes.
type EncryptRequest struct {
	Key       Key       `cbor:"1,keyasint"`
	Algorithm Algorithm `cbor:"2,keyasint"`
	Plaintext []byte    `cbor:"3,keyasint"`
	AAD       []byte    `cbor:"4,keyasint,omitempty"`
}

// EncryptAnswer is the ciphertext.
type EncryptAnswer struct {
	Sealed Sealed `cbor:"1,keyasint"`
}

// Recipient is the caller's RSA public key, to which an answer is encrypted so
// that its plaintext never leaves the token.
type Recipient struct {
	// PublicKey is a DER SubjectPublicKeyInfo, RSA of 2048 to 4096 bits.
	PublicKey []byte `cbor:"1,keyasint"`
	// Algorithm is RSAES_OAEP_SHA_256 or RSAES_OAEP_SHA_1.
	Algorithm Algorithm `cbor:"2,keyasint"`
	// CMS asks for a CMS EnvelopedData (RFC 5652) as AWS answers Nitro
	// enclaves, by RSAES_OAEP_SHA_256 and AES-256-CBC. Without it the answer is
	// the bare OAEP ciphertext, as long as the modulus; what is too long for
	// OAEP goes under a fresh AES-256 key (RFC 5649) that follows the OAEP
	// ciphertext of that key.
	CMS bool `cbor:"3,keyasint,omitempty"`
	// ThroughPlugin lets a key pass through the plugin's memory where the token
	// lacks a mechanism to wrap it to the recipient. Without it such a token
	// answers [Unsupported].
	ThroughPlugin bool `cbor:"4,keyasint,omitempty"`
}

// DecryptRequest decrypts what Encrypt made.
type DecryptRequest struct {
	Key       Key       `cbor:"1,keyasint"`
	Algorithm Algorithm `cbor:"2,keyasint"`
	Sealed    Sealed    `cbor:"3,keyasint"`
	AAD       []byte    `cbor:"4,keyasint,omitempty"`
	// Recipient, if set, gets the plaintext instead of the caller.
	Recipient *Recipient `cbor:"5,keyasint,omitempty"`
}

// DecryptAnswer has one of the two.
type DecryptAnswer struct {
	Plaintext    []byte `cbor:"1,keyasint,omitempty"`
	ForRecipient []byte `cbor:"2,keyasint,omitempty"`
}

// ReEncryptRequest decrypts under one symmetric key and encrypts under another.
type ReEncryptRequest struct {
	Source         Key    `cbor:"1,keyasint"`
	Sealed         Sealed `cbor:"2,keyasint"`
	SourceAAD      []byte `cbor:"3,keyasint,omitempty"`
	Destination    Key    `cbor:"4,keyasint"`
	DestinationAAD []byte `cbor:"5,keyasint,omitempty"`
}

// GenerateDataKeyRequest makes a symmetric data key of Length bytes, 1 to
// 1,024: a session object, wrapped under Wrapping (usage [WrapDataKeys]), and
// what that gives encrypted under Key with AAD.
//
// The sealed plaintext of a data key is
//
//	CKA_ID of the wrapping key (16) | form (4 bits) and length (12 bits) of the data key (2, big-endian) | RFC 5649 ciphertext
//
// Form 0 is a secret key; the backend defines the others. The length of a
// private key is 0, its PKCS #8 form says it.
type GenerateDataKeyRequest struct {
	Key      Key    `cbor:"1,keyasint"`
	Wrapping Key    `cbor:"2,keyasint"`
	Length   int    `cbor:"3,keyasint"`
	AAD      []byte `cbor:"4,keyasint,omitempty"`
	// Recipient also gets the data key, wrapped in the token.
	Recipient *Recipient `cbor:"5,keyasint,omitempty"`
	// Plaintext also returns the data key in the clear. The daemon's
	// configuration decides whether anyone may ask for it.
	Plaintext bool `cbor:"6,keyasint,omitempty"`
}

// GenerateDataKeyPairRequest is the same for a key pair; the data key is the
// private key as PKCS#8 (RFC 5208) DER.
type GenerateDataKeyPairRequest struct {
	Key       Key        `cbor:"1,keyasint"`
	Wrapping  Key        `cbor:"2,keyasint"`
	Spec      KeySpec    `cbor:"3,keyasint"`
	AAD       []byte     `cbor:"4,keyasint,omitempty"`
	Recipient *Recipient `cbor:"5,keyasint,omitempty"`
	Plaintext bool       `cbor:"6,keyasint,omitempty"`
}

// GenerateDataKeyAnswer carries the sealed data key and what else was asked.
type GenerateDataKeyAnswer struct {
	Sealed       Sealed `cbor:"1,keyasint"`
	PublicKey    []byte `cbor:"2,keyasint,omitempty"` // DER SubjectPublicKeyInfo of a pair
	Plaintext    []byte `cbor:"3,keyasint,omitempty"`
	ForRecipient []byte `cbor:"4,keyasint,omitempty"`
}

// OpenDataKeyRequest opens what GenerateDataKey or GenerateDataKeyPair sealed.
// With neither Recipient nor Plaintext set it only proves that it can be
// opened.
type OpenDataKeyRequest struct {
	Key    Key    `cbor:"1,keyasint"`
	Sealed Sealed `cbor:"2,keyasint"`
	AAD    []byte `cbor:"3,keyasint,omitempty"`
	// Pair: the data key is a private key.
	Pair      bool       `cbor:"4,keyasint,omitempty"`
	Recipient *Recipient `cbor:"5,keyasint,omitempty"`
	Plaintext bool       `cbor:"6,keyasint,omitempty"`
}

// OpenDataKeyAnswer has what was asked for.
type OpenDataKeyAnswer struct {
	Plaintext    []byte `cbor:"1,keyasint,omitempty"`
	ForRecipient []byte `cbor:"2,keyasint,omitempty"`
}

// GenerateRandomRequest asks for Length bytes, 1 to 1,024.
type GenerateRandomRequest struct {
	Length    int        `cbor:"1,keyasint"`
	Recipient *Recipient `cbor:"2,keyasint,omitempty"`
}

// GenerateRandomAnswer has one of the two.
type GenerateRandomAnswer struct {
	Plaintext    []byte `cbor:"1,keyasint,omitempty"`
	ForRecipient []byte `cbor:"2,keyasint,omitempty"`
}

// MessageType says what SignRequest.Message is.
type MessageType string

// The message types of the AWS KMS API.
const (
	Raw        MessageType = "RAW"         // the message itself; hashed as the algorithm says
	Digest     MessageType = "DIGEST"      // its hash, of the algorithm's length
	ExternalMu MessageType = "EXTERNAL_MU" // ML-DSA mu, 64 bytes (FIPS 204)
)

// SignRequest signs Message, at most 4,096 bytes.
type SignRequest struct {
	Key       Key         `cbor:"1,keyasint"`
	Algorithm Algorithm   `cbor:"2,keyasint"`
	Type      MessageType `cbor:"3,keyasint"`
	Message   []byte      `cbor:"4,keyasint"`
}

// SignAnswer carries the signature: DER for ECDSA (RFC 3279 section 2.2.3),
// the algorithm's own bytes otherwise.
type SignAnswer struct {
	Signature []byte `cbor:"1,keyasint"`
}

// VerifyRequest verifies Signature over Message.
type VerifyRequest struct {
	Key       Key         `cbor:"1,keyasint"`
	Algorithm Algorithm   `cbor:"2,keyasint"`
	Type      MessageType `cbor:"3,keyasint"`
	Message   []byte      `cbor:"4,keyasint"`
	Signature []byte      `cbor:"5,keyasint"`
}

// VerifyAnswer says whether it fits.
type VerifyAnswer struct {
	Valid bool `cbor:"1,keyasint"`
}

// MACRequest computes an HMAC (RFC 2104) over Message, at most 4,096 bytes.
type MACRequest struct {
	Key       Key       `cbor:"1,keyasint"`
	Algorithm Algorithm `cbor:"2,keyasint"`
	Message   []byte    `cbor:"3,keyasint"`
}

// MACAnswer carries the whole HMAC, not truncated.
type MACAnswer struct {
	MAC []byte `cbor:"1,keyasint"`
}

// VerifyMACRequest verifies MAC, in constant time.
type VerifyMACRequest struct {
	Key       Key       `cbor:"1,keyasint"`
	Algorithm Algorithm `cbor:"2,keyasint"`
	Message   []byte    `cbor:"3,keyasint"`
	MAC       []byte    `cbor:"4,keyasint"`
}

// DeriveSharedSecretRequest agrees with the peer's public key, a DER
// SubjectPublicKeyInfo on the key's own curve.
type DeriveSharedSecretRequest struct {
	Key       Key        `cbor:"1,keyasint"`
	PublicKey []byte     `cbor:"2,keyasint"`
	Recipient *Recipient `cbor:"3,keyasint,omitempty"`
}

// DeriveSharedSecretAnswer has one of the two: the x coordinate, or the same
// for the recipient.
type DeriveSharedSecretAnswer struct {
	SharedSecret []byte `cbor:"1,keyasint,omitempty"`
	ForRecipient []byte `cbor:"2,keyasint,omitempty"`
}

// ImportKeyRequest unwraps Material into the token as Key (Key.Imported set).
type ImportKeyRequest struct {
	Key   Key    `cbor:"1,keyasint"`
	Label string `cbor:"2,keyasint"`
	// Wrapping is the RSA pair (usage [UnwrapImport]) that Material is
	// wrapped to by Algorithm (RSAES_OAEP_SHA_256, RSA_AES_KEY_WRAP_SHA_256, …).
	Wrapping  Key       `cbor:"3,keyasint"`
	Algorithm Algorithm `cbor:"4,keyasint"`
	Material  []byte    `cbor:"5,keyasint"`
	// TokenOnly refuses ([Unsupported]) where part of the material would
	// have to pass through the plugin's memory.
	TokenOnly bool `cbor:"6,keyasint,omitempty"`
}

// ImportKeyAnswer tells what came in.
type ImportKeyAnswer struct {
	PublicKey []byte `cbor:"1,keyasint,omitempty"`
	// CheckValue is the same for the same material and reveals nothing of
	// it: it tells a re-import from another key.
	CheckValue []byte `cbor:"2,keyasint"`
	// ThroughPlugin: material, or the key that wrapped it, was in the
	// plugin's memory because the token lacks the mechanism.
	ThroughPlugin bool `cbor:"3,keyasint,omitempty"`
	// Unsure is as in [CreateKeyAnswer].
	Unsure bool `cbor:"4,keyasint,omitempty"`
}

// EncapsulateRequest makes a shared secret for the key's public half.
type EncapsulateRequest struct {
	Key       Key       `cbor:"1,keyasint"`
	Algorithm Algorithm `cbor:"2,keyasint"`
}

// EncapsulateAnswer carries the secret and its ciphertext (FIPS 203).
type EncapsulateAnswer struct {
	SharedSecret []byte `cbor:"1,keyasint"`
	Ciphertext   []byte `cbor:"2,keyasint"`
}

// DecapsulateRequest opens an encapsulated secret.
type DecapsulateRequest struct {
	Key        Key       `cbor:"1,keyasint"`
	Algorithm  Algorithm `cbor:"2,keyasint"`
	Ciphertext []byte    `cbor:"3,keyasint"`
}

// DecapsulateAnswer carries the secret.
type DecapsulateAnswer struct {
	SharedSecret []byte `cbor:"1,keyasint"`
}
