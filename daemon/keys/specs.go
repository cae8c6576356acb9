package keys

import (
	"crypto"

	"cmkd/backends"
)

// Spec is what AWS KMS allows of keys of one key spec.
// https://docs.aws.amazon.com/kms/latest/developerguide/symm-asymm-choose-key-spec.html
type Spec struct {
	Usages []backends.Usage // the first is the default where AWS has one
	// Algorithms by usage. The order is the order in KeyMetadata: clients
	// such as sigstore take the first.
	Algorithms map[backends.Usage][]backends.Algorithm
	// Importable: Origin EXTERNAL is allowed.
	Importable bool
}

var (
	rsaSpec = Spec{
		Usages: []backends.Usage{backends.EncryptDecrypt, backends.SignVerify},
		Algorithms: map[backends.Usage][]backends.Algorithm{
			backends.EncryptDecrypt: {"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"},
			backends.SignVerify: {
				"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512",
				"RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512",
			},
		},
		Importable: true,
	}
	// AWS imports ML-DSA keys too. Here no token is known to unwrap one, and of
	// those that might, none says which of the three forms of RFC 9881, section 6,
	// it takes.
	mldsaSpec = Spec{
		Usages:     []backends.Usage{backends.SignVerify},
		Algorithms: map[backends.Usage][]backends.Algorithm{backends.SignVerify: {"ML_DSA_SHAKE_256"}},
	}
	mlkemSpec = Spec{
		Usages:     []backends.Usage{backends.EncapsulateDecapsulate},
		Algorithms: map[backends.Usage][]backends.Algorithm{backends.EncapsulateDecapsulate: {"ML_KEM"}},
	}
)

func nistCurve(signing backends.Algorithm) Spec {
	return Spec{
		Usages: []backends.Usage{backends.SignVerify, backends.KeyAgreement},
		Algorithms: map[backends.Usage][]backends.Algorithm{
			backends.SignVerify:   {signing},
			backends.KeyAgreement: {"ECDH"},
		},
		Importable: true,
	}
}

func hmacSpec(algorithm backends.Algorithm) Spec {
	return Spec{
		Usages:     []backends.Usage{backends.GenerateVerifyMAC},
		Algorithms: map[backends.Usage][]backends.Algorithm{backends.GenerateVerifyMAC: {algorithm}},
		Importable: true,
	}
}

// Specs are the key specs of the API model, SM2 (China Regions only) aside.
var Specs = map[backends.KeySpec]Spec{
	backends.SymmetricDefault: {
		Usages:     []backends.Usage{backends.EncryptDecrypt},
		Algorithms: map[backends.Usage][]backends.Algorithm{backends.EncryptDecrypt: {"SYMMETRIC_DEFAULT"}},
		Importable: true,
	},
	backends.RSA2048: rsaSpec,
	backends.RSA3072: rsaSpec,
	backends.RSA4096: rsaSpec,
	backends.P256:    nistCurve("ECDSA_SHA_256"),
	backends.P384:    nistCurve("ECDSA_SHA_384"),
	backends.P521:    nistCurve("ECDSA_SHA_512"),
	backends.Secp256k1: {
		Usages:     []backends.Usage{backends.SignVerify},
		Algorithms: map[backends.Usage][]backends.Algorithm{backends.SignVerify: {"ECDSA_SHA_256"}},
		Importable: true,
	},
	backends.Ed25519: {
		Usages:     []backends.Usage{backends.SignVerify},
		Algorithms: map[backends.Usage][]backends.Algorithm{backends.SignVerify: {"ED25519_SHA_512", "ED25519_PH_SHA_512"}},
		Importable: true,
	},
	backends.HMAC224:   hmacSpec("HMAC_SHA_224"),
	backends.HMAC256:   hmacSpec("HMAC_SHA_256"),
	backends.HMAC384:   hmacSpec("HMAC_SHA_384"),
	backends.HMAC512:   hmacSpec("HMAC_SHA_512"),
	backends.MLDSA44:   mldsaSpec,
	backends.MLDSA65:   mldsaSpec,
	backends.MLDSA87:   mldsaSpec,
	backends.MLKEM512:  mlkemSpec,
	backends.MLKEM768:  mlkemSpec,
	backends.MLKEM1024: mlkemSpec,
}

// SigningHash is the hash whose length a DIGEST message must have. Ed25519
// takes a DIGEST (SHA-512) only in its pre-hashed form (RFC 8032, Ed25519ph)
// and a RAW message only in the pure one.
var SigningHash = map[backends.Algorithm]crypto.Hash{
	"RSASSA_PSS_SHA_256":        crypto.SHA256,
	"RSASSA_PSS_SHA_384":        crypto.SHA384,
	"RSASSA_PSS_SHA_512":        crypto.SHA512,
	"RSASSA_PKCS1_V1_5_SHA_256": crypto.SHA256,
	"RSASSA_PKCS1_V1_5_SHA_384": crypto.SHA384,
	"RSASSA_PKCS1_V1_5_SHA_512": crypto.SHA512,
	"ECDSA_SHA_256":             crypto.SHA256,
	"ECDSA_SHA_384":             crypto.SHA384,
	"ECDSA_SHA_512":             crypto.SHA512,
	"ED25519_PH_SHA_512":        crypto.SHA512,
}

// OAEPLimit is the longest plaintext, in bytes, of RSAES-OAEP: modulus length
// less twice the hash length less 2 (RFC 8017 section 7.1.1).
func OAEPLimit(s backends.KeySpec, algorithm backends.Algorithm) int {
	modulus := map[backends.KeySpec]int{backends.RSA2048: 256, backends.RSA3072: 384, backends.RSA4096: 512}[s]
	if algorithm == "RSAES_OAEP_SHA_1" {
		return modulus - 2*20 - 2
	}
	return modulus - 2*32 - 2
}
