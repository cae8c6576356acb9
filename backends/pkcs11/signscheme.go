package pkcs11

import (
	"crypto"
	"crypto/ed25519"
	encodingasn1 "encoding/asn1"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// scheme is what a signature is made by.
type scheme int

const (
	rsaPKCS1    scheme = iota // RSASSA-PKCS1-v1_5 (RFC 8017, section 8.2)
	rsaPSS                    // RSASSA-PSS (RFC 8017, section 8.1), salt as long as the hash, MGF1 with the hash
	ecdsaDER                  // ECDSA (FIPS 186-5, section 6), DER (RFC 3279, section 2.2.3)
	ed25519Pure               // Ed25519 (RFC 8032, section 5.1)
	ed25519PH                 // Ed25519ph (RFC 8032, section 5.1), of a SHA-512 digest
	mlDSAPure                 // ML-DSA (FIPS 204, section 5.2), no context
)

// signing is a SigningAlgorithmSpec of the AWS KMS API.
type signing struct {
	scheme    scheme
	hash      crypto.Hash // 0: the message itself is signed
	specs     []backends.KeySpec
	mechanism string // as PKCS#11 names it
}

var rsaSpecs = []backends.KeySpec{backends.RSA2048, backends.RSA3072, backends.RSA4096}

// signings are the algorithms and the key specs that have them.
// https://docs.aws.amazon.com/kms/latest/developerguide/symm-asymm-choose-key-spec.html
var signings = map[backends.Algorithm]*signing{
	"RSASSA_PKCS1_V1_5_SHA_256": {rsaPKCS1, crypto.SHA256, rsaSpecs, "CKM_RSA_PKCS"},
	"RSASSA_PKCS1_V1_5_SHA_384": {rsaPKCS1, crypto.SHA384, rsaSpecs, "CKM_RSA_PKCS"},
	"RSASSA_PKCS1_V1_5_SHA_512": {rsaPKCS1, crypto.SHA512, rsaSpecs, "CKM_RSA_PKCS"},
	"RSASSA_PSS_SHA_256":        {rsaPSS, crypto.SHA256, rsaSpecs, "CKM_RSA_PKCS_PSS with CKM_SHA256"},
	"RSASSA_PSS_SHA_384":        {rsaPSS, crypto.SHA384, rsaSpecs, "CKM_RSA_PKCS_PSS with CKM_SHA384"},
	"RSASSA_PSS_SHA_512":        {rsaPSS, crypto.SHA512, rsaSpecs, "CKM_RSA_PKCS_PSS with CKM_SHA512"},
	"ECDSA_SHA_256":             {ecdsaDER, crypto.SHA256, []backends.KeySpec{backends.P256, backends.Secp256k1}, "CKM_ECDSA"},
	"ECDSA_SHA_384":             {ecdsaDER, crypto.SHA384, []backends.KeySpec{backends.P384}, "CKM_ECDSA"},
	"ECDSA_SHA_512":             {ecdsaDER, crypto.SHA512, []backends.KeySpec{backends.P521}, "CKM_ECDSA"},
	"ED25519_SHA_512":           {ed25519Pure, 0, []backends.KeySpec{backends.Ed25519}, "CKM_EDDSA"},
	"ED25519_PH_SHA_512":        {ed25519PH, crypto.SHA512, []backends.KeySpec{backends.Ed25519}, "CKM_EDDSA with phFlag"},
	"ML_DSA_SHAKE_256":          {mlDSAPure, 0, []backends.KeySpec{backends.MLDSA44, backends.MLDSA65, backends.MLDSA87}, "CKM_ML_DSA"},
}

// maxMessage is the longest message in bytes that is signed or verified (AWS's
// Message member).
const maxMessage = 4096

// input returns what is signed: the message or its digest.
func (a *signing) input(t backends.MessageType, message []byte) ([]byte, error) {
	switch {
	case len(message) > maxMessage:
		return nil, backends.Errorf(backends.InvalidRequest, "a message of %d bytes: at most %d are signed", len(message), maxMessage)
	case t == backends.ExternalMu && a.scheme == mlDSAPure:
		return nil, &backends.Error{
			Code: backends.Unsupported,
			Message: "MessageType EXTERNAL_MU is not supported for signing: PKCS#11 3.2 has no mechanism that signs an external mu, " +
				"CKM_ML_DSA takes the message itself. Use MessageType RAW",
		}
	case t == backends.Raw && a.hash == 0:
		return message, nil
	case t == backends.Raw && a.scheme != ed25519PH:
		return hashed(a.hash, message), nil
	case t == backends.Digest && a.hash != 0:
		if len(message) != a.hash.Size() {
			return nil, backends.Errorf(backends.InvalidRequest, "a digest of %d bytes: the algorithm's has %d", len(message), a.hash.Size())
		}
		return message, nil
	}
	return nil, backends.Errorf(backends.InvalidRequest, "the algorithm does not sign a message of type %s", t)
}

// tokenInput is input as the mechanism wants it.
func (a *signing) tokenInput(input []byte) []byte {
	if a.scheme != rsaPKCS1 {
		return input
	}
	prefix := digestInfos[a.hash]
	return append(prefix[:len(prefix):len(prefix)], input...)
}

// ckm is the mechanism of C_SignInit.
func (a *signing) ckm() cryptoki.Mechanism {
	switch a.scheme {
	case rsaPKCS1:
		return cryptoki.Mechanism{Type: p11.CKM_RSA_PKCS}
	case rsaPSS:
		return pssMechanism(a.hash)
	case ecdsaDER:
		return cryptoki.Mechanism{Type: p11.CKM_ECDSA}
	case ed25519PH:
		return cryptoki.Mechanism{Type: ckmEDDSA, Parameter: cryptoki.EDDSAParams(true)}
	case mlDSAPure:
		return cryptoki.Mechanism{Type: ckmMLDSA}
	default:
		return cryptoki.Mechanism{Type: ckmEDDSA}
	}
}

// pssMechanism is CKM_RSA_PKCS_PSS with CK_RSA_PKCS_PSS_PARAMS (PKCS#11 2.40
// Current Mechanisms, section 2.1.10).
func pssMechanism(h crypto.Hash) cryptoki.Mechanism {
	var ckm, mgf uint
	switch h {
	case crypto.SHA384:
		ckm, mgf = p11.CKM_SHA384, p11.CKG_MGF1_SHA384
	case crypto.SHA512:
		ckm, mgf = p11.CKM_SHA512, p11.CKG_MGF1_SHA512
	default:
		ckm, mgf = p11.CKM_SHA256, p11.CKG_MGF1_SHA256
	}
	var parameter []byte
	for _, field := range []uint{ckm, mgf, uint(h.Size())} {
		parameter = cryptoki.AppendULong(parameter, field)
	}
	return cryptoki.Mechanism{Type: p11.CKM_RSA_PKCS_PSS, Parameter: parameter}
}

// length is how many bytes C_Sign writes.
func (a *signing) length(k *pairKind) int {
	switch a.scheme {
	case ecdsaDER:
		return 2 * k.size() // r | s; the orders are as long as the field elements
	case ed25519Pure, ed25519PH:
		return ed25519.SignatureSize
	case mlDSAPure:
		return k.signature
	default:
		return k.size()
	}
}

// digestInfos are the DER DigestInfo up to the digest (RFC 8017, section 9.2,
// note 1).
var digestInfos = map[crypto.Hash][]byte{
	crypto.SHA256: digestInfo(crypto.SHA256, encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}),
	crypto.SHA384: digestInfo(crypto.SHA384, encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}),
	crypto.SHA512: digestInfo(crypto.SHA512, encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}),
}

func digestInfo(h crypto.Hash, oid encodingasn1.ObjectIdentifier) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oid)
			b.AddASN1NULL()
		})
		b.AddASN1OctetString(make([]byte, h.Size()))
	})
	der := b.BytesOrPanic() // of constants
	return der[:len(der)-h.Size()]
}

// hashed is the hash of a message. The hash function keeps the last bytes that do not
// fill a block, also when it is reset: zeros take their place.
func hashed(h crypto.Hash, message []byte) []byte {
	state := h.New()
	state.Write(message)
	sum := state.Sum(nil)
	state.Reset()
	var zeros [256]byte
	state.Write(zeros[:min(len(zeros), state.BlockSize()-1)])
	return sum
}
