package shim

import "sync/atomic"

// Manner is a way in which some token differs from SoftHSM2. Manners can be combined.
type Manner uint64

// The manners, as enum manner in module/manners.h has them.
const (
	// UnwrapsReadable, as opencryptoki: C_UnwrapKey with AES refuses CKA_SENSITIVE and
	// CKA_EXTRACTABLE in the template (CKR_ATTRIBUTE_READ_ONLY), and with RSA ignores
	// them. What it makes is extractable and not sensitive.
	UnwrapsReadable Manner = 1 << iota
	// BadInputIsDeviceError, as kryoptic: CKR_DEVICE_ERROR to a ciphertext or signature
	// that is not valid.
	BadInputIsDeviceError
	// NoSecp256k1, as kryoptic: C_GenerateKeyPair answers CKR_GENERAL_ERROR for the curve.
	NoSecp256k1
	// NoKeyWrap: no mechanism is RFC 5649 or RFC 3394, as in older opencryptoki.
	NoKeyWrap
	// NoHMAC: there are no HMAC mechanisms.
	NoHMAC
	// NoSecretKeys, as a TPM behind tpm2-pkcs11: key pairs alone.
	NoSecretKeys
	// MiddlingSecrets, as opencryptoki: C_GenerateKey makes generic secrets of 10 to 256
	// bytes (else CKR_KEY_SIZE_RANGE, or CKR_DEVICE_ERROR with BigInputIsDeviceError).
	MiddlingSecrets
	// EdwardsByOID, as opencryptoki: the PrintableString that names an Edwards curve is
	// refused (CKR_CURVE_NOT_SUPPORTED), its OID taken.
	EdwardsByOID
	// UnwrapsForgetfully: what C_UnwrapKey makes is extractable and not sensitive,
	// whatever the template says.
	UnwrapsForgetfully
	// ReadsSecretKeys and ReadsPrivateKeys give values of sensitive keys,
	// WrapsUnderRSA and WrapsPrivateKeys wrap keys that must not be extracted,
	// CopiesPrivateKeys and ChangesPrivateKeys do what makes them extractable.
	ReadsSecretKeys
	ReadsPrivateKeys
	WrapsUnderRSA
	WrapsPrivateKeys
	CopiesPrivateKeys
	ChangesPrivateKeys
	// RefusesRisks, as nShield: a template of a key that decrypts and wraps or unwraps,
	// too, is CKR_TEMPLATE_INCONSISTENT.
	RefusesRisks
	// RefusesSensitive, as nShield: so is one of C_CreateObject with CKA_SENSITIVE.
	RefusesSensitive
	// ShortLabels: CKA_LABEL has at most 40 characters, capital letters and digits
	// (else CKR_ATTRIBUTE_VALUE_INVALID).
	ShortLabels
	// CutLabels: CKA_LABEL is cut after 8 characters, without a word.
	CutLabels
	// ReadsGenericSecrets and ReadsEdwardsKeys give values of sensitive keys of one kind.
	ReadsGenericSecrets
	ReadsEdwardsKeys
	// WrapsRSAKeys wraps RSA private keys that must not be extracted, and wants as much
	// room for it as a true token.
	WrapsRSAKeys
	// WrapsByCTR, WrapsByGCM, WrapsByDES3, WrapsByOAEP256, WrapsByRSAAES and WrapsByVendors
	// wrap keys that must not be extracted by one mechanism alone.
	WrapsByCTR
	WrapsByGCM
	WrapsByDES3
	WrapsByOAEP256
	WrapsByRSAAES
	WrapsByVendors
	// DerivesKeys derives keys that can be read from keys without CKA_DERIVE.
	DerivesKeys
	// NoAES: there are no AES keys, and generic secrets are.
	NoAES
	// BigInputIsDeviceError: CKR_DEVICE_ERROR to more than a kilobyte to encrypt, to sign or
	// of additional data, to keys of more than 256 bytes, and to more random bytes than 1020.
	// An empty plaintext is CKR_DATA_LEN_RANGE.
	BigInputIsDeviceError
	// ReadsTokenObjects gives values of sensitive keys that stay, which no probe makes.
	ReadsTokenObjects
	// LastingPairs, as a TPM behind tpm2-pkcs11: pairs are made as token objects only, RSA of
	// 2048 bits at most (else CKR_ATTRIBUTE_VALUE_INVALID), and private keys decrypt, too
	// (CKR_GENERAL_ERROR to CKA_DECRYPT false).
	LastingPairs
	// ReadsChangedKeys, WrapsChangedKeys and CopiesChangedKeys let private keys out that
	// ChangesPrivateKeys has changed.
	ReadsChangedKeys
	WrapsChangedKeys
	CopiesChangedKeys
	// FewLoadedKeys, as a TPM: each pair that is made or signs stays loaded, and beyond 12
	// C_GenerateKeyPair and C_SignInit are CKR_GENERAL_ERROR until C_Finalize.
	FewLoadedKeys
	// AddsUsages lets CKA_DERIVE and CKA_WRAP be added to keys that are not modifiable, and
	// DerivesAdded derives keys that can be read from those that were told to derive so.
	AddsUsages
	DerivesAdded
	// ReadsOtherPKCS8: a value that is read is PKCS #8 of a version that does not exist.
	ReadsOtherPKCS8
	// WrapsByListed lists a standard mechanism as one that wraps, CKM_AES_XTS, and wraps keys
	// by it that must not be extracted.
	WrapsByListed
	// Concatenates derives keys that can be read by CKM_CONCATENATE_DATA_AND_BASE.
	Concatenates
	// CopiesForgetfully makes copies that can be read, unless the template says that they cannot.
	CopiesForgetfully
	// ReadsInCompany gives values of sensitive keys that are asked for beside other attributes.
	ReadsInCompany
	// FindsForever: C_FindObjects does not end.
	FindsForever
	// WrapsTooMuch: a wrapped key has the length CK_UNAVAILABLE_INFORMATION.
	WrapsTooMuch
	// NoRandom: C_GenerateRandom writes nothing.
	NoRandom
	// LittleIsDeviceError: CKR_DEVICE_ERROR to less than 8 bytes to sign, or of random numbers.
	LittleIsDeviceError
)

// Manners switches the manners on, and all others off. Set them before the module is
// loaded: they are found by probing.
func (c *Control) Manners(all ...Manner) {
	var bits Manner
	for _, m := range all {
		bits |= m
	}
	atomic.StoreUint64(&c.header.manners, uint64(bits))
}
