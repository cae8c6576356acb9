package der

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

// Scheme is what a signature is made by.
type scheme int

const (
	RSAPKCS1    scheme = iota // RSASSA-PKCS1-v1_5 (RFC 8017, section 8.2)
	RSAPSS                    // RSASSA-PSS (RFC 8017, section 8.1), salt as long as the hash, MGF1 with the hash
	ECDSADER                  // ECDSA (FIPS 186-5, section 6), DER (RFC 3279, section 2.2.3)
	ed25519Pure               // Ed25519 (RFC 8032, section 5.1)
	ed25519PH                 // Ed25519ph (RFC 8032, section 5.1), of a SHA-512 digest
	MLDSAPure                 // ML-DSA (FIPS 204, section 5.2), no context
)

// Signing is a SigningAlgorithmSpec of the AWS KMS API.
type Signing struct {
	Scheme    scheme
	Hash      crypto.Hash // 0: the message itself is signed
	Specs     []backends.KeySpec
	Mechanism string // as PKCS#11 names it
}

var RSASpecs = []backends.KeySpec{backends.RSA2048, backends.RSA3072, backends.RSA4096}

// Signings are the algorithms and the key specs that have them.
// https://docs.aws.amazon.com/kms/latest/developerguide/symm-asymm-choose-key-spec.html
var Signings = map[backends.Algorithm]*Signing{
	"RSASSA_PKCS1_V1_5_SHA_256": {RSAPKCS1, crypto.SHA256, RSASpecs, "CKM_RSA_PKCS"},
	"RSASSA_PKCS1_V1_5_SHA_384": {RSAPKCS1, crypto.SHA384, RSASpecs, "CKM_RSA_PKCS"},
	"RSASSA_PKCS1_V1_5_SHA_512": {RSAPKCS1, crypto.SHA512, RSASpecs, "CKM_RSA_PKCS"},
	"RSASSA_PSS_SHA_256":        {RSAPSS, crypto.SHA256, RSASpecs, "CKM_RSA_PKCS_PSS with CKM_SHA256"},
	"RSASSA_PSS_SHA_384":        {RSAPSS, crypto.SHA384, RSASpecs, "CKM_RSA_PKCS_PSS with CKM_SHA384"},
	"RSASSA_PSS_SHA_512":        {RSAPSS, crypto.SHA512, RSASpecs, "CKM_RSA_PKCS_PSS with CKM_SHA512"},
	"ECDSA_SHA_256":             {ECDSADER, crypto.SHA256, []backends.KeySpec{backends.P256, backends.Secp256k1}, "CKM_ECDSA"},
	"ECDSA_SHA_384":             {ECDSADER, crypto.SHA384, []backends.KeySpec{backends.P384}, "CKM_ECDSA"},
	"ECDSA_SHA_512":             {ECDSADER, crypto.SHA512, []backends.KeySpec{backends.P521}, "CKM_ECDSA"},
	"ED25519_SHA_512":           {ed25519Pure, 0, []backends.KeySpec{backends.Ed25519}, "CKM_EDDSA"},
	"ED25519_PH_SHA_512":        {ed25519PH, crypto.SHA512, []backends.KeySpec{backends.Ed25519}, "CKM_EDDSA with phFlag"},
	"ML_DSA_SHAKE_256":          {MLDSAPure, 0, []backends.KeySpec{backends.MLDSA44, backends.MLDSA65, backends.MLDSA87}, "CKM_ML_DSA"},
}

// maxMessage is the longest message in bytes that is signed or verified (AWS's
// Message member).
const maxMessage = 4096

// Input returns what is signed: the message or its digest.
func (a *Signing) Input(t backends.MessageType, message []byte) ([]byte, error) {
	switch {
	case len(message) > maxMessage:
		return nil, backends.Errorf(backends.InvalidRequest, "a message of %d bytes: at most %d are signed", len(message), maxMessage)
	case t == backends.ExternalMu && a.Scheme == MLDSAPure:
		return nil, &backends.Error{
			Code: backends.Unsupported,
			Message: "MessageType EXTERNAL_MU is not supported for signing: PKCS#11 3.2 has no mechanism that signs an external mu, " +
				"CKM_ML_DSA takes the message itself. Use MessageType RAW",
		}
	case t == backends.Raw && a.Hash == 0:
		return message, nil
	case t == backends.Raw && a.Scheme != ed25519PH:
		return hashed(a.Hash, message), nil
	case t == backends.Digest && a.Hash != 0:
		if len(message) != a.Hash.Size() {
			return nil, backends.Errorf(backends.InvalidRequest, "a digest of %d bytes: the algorithm's has %d", len(message), a.Hash.Size())
		}
		return message, nil
	}
	return nil, backends.Errorf(backends.InvalidRequest, "the algorithm does not sign a message of type %s", t)
}

// TokenInput is input as the mechanism wants it.
func (a *Signing) TokenInput(input []byte) []byte {
	if a.Scheme != RSAPKCS1 {
		return input
	}
	prefix := digestInfos[a.Hash]
	return append(prefix[:len(prefix):len(prefix)], input...)
}

// CKM is the mechanism of C_SignInit.
func (a *Signing) CKM() cryptoki.Mechanism {
	switch a.Scheme {
	case RSAPKCS1:
		return cryptoki.Mechanism{Type: p11.CKM_RSA_PKCS}
	case RSAPSS:
		return pssMechanism(a.Hash)
	case ECDSADER:
		return cryptoki.Mechanism{Type: p11.CKM_ECDSA}
	case ed25519PH:
		return cryptoki.Mechanism{Type: cryptoki.CKMEDDSA, Parameter: cryptoki.EDDSAParams(true)}
	case MLDSAPure:
		return cryptoki.Mechanism{Type: cryptoki.CKMMLDSA}
	default:
		return cryptoki.Mechanism{Type: cryptoki.CKMEDDSA}
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

// Length is how many bytes C_Sign writes.
func (a *Signing) Length(k *Kind) int {
	switch a.Scheme {
	case ECDSADER:
		return 2 * k.Size() // r | s; the orders are as long as the field elements
	case ed25519Pure, ed25519PH:
		return ed25519.SignatureSize
	case MLDSAPure:
		return k.signature
	default:
		return k.Size()
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

// TrialSigning is the algorithm with which a new key of a data key pair is tried.
func (k *Kind) TrialSigning() *Signing { return Signings[k.trial] }

// SignMechanism names the first mechanism that a key of this kind signs with.
func (k *Kind) SignMechanism() string {
	return map[Form]string{RSAKey: "CKM_RSA_PKCS", ECKey: "CKM_ECDSA", EdwardsKey: "CKM_EDDSA", MLDSAKey: "CKM_ML_DSA"}[k.Form]
}
