package keyring

import (
	"context"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"sync"

	"cmkd/backends"
	"cmkd/daemon/ciphertext"
	"cmkd/daemon/keys"
)

// A plugin whose module was taken over answers what it likes. The daemon holds each
// answer against the request before anything of it leaves: what nobody asked for, a
// data key in the clear above all, stays here, and what is not of the form that the
// request calls for is an internal error. Whether a ciphertext, a signature or a
// secret of the right form is the right one only the token knows.

// checkedRouter routes to backends whose answers are checked.
type checkedRouter struct {
	Router
	checked *sync.Map // of a Backend: what checks it
}

func newCheckedRouter(r Router) checkedRouter { return checkedRouter{r, new(sync.Map)} }

// Route implements [Router].
func (r checkedRouter) Route(token string, spec backends.KeySpec) (b Backend, info backends.SpecInfo, ok bool) {
	if b, info, ok = r.Router.Route(token, spec); b != nil {
		known, found := r.checked.Load(b)
		if !found {
			known, _ = r.checked.LoadOrStore(b, checked{b})
		}
		b, _ = known.(Backend)
	}
	return b, info, ok
}

// checked checks the answers of a backend against the requests.
type checked struct{ Backend }

// maxCiphertext is the longest CiphertextBlob that Decrypt takes, in bytes.
const maxCiphertext = 6144

// Answered returns the answer, or wipes it and returns what is wrong with it.
func answered[A any](out *A, err error, wrong func(*A) string) (*A, error) {
	if err != nil {
		return nil, err
	}
	if text := wrong(out); text != "" {
		if secret, ok := any(out).(backends.Secret); ok {
			secret.Wipe()
		}
		return nil, backends.Errorf(backends.Internal, "the plugin's answer is refused: %s", text)
	}
	return out, nil
}

// handedOut checks what an answer gives the caller, and the recipient, against what was
// asked for.
func handedOut(asked bool, plaintext []byte, to *backends.Recipient, forRecipient []byte) string {
	switch {
	case !asked && len(plaintext) > 0:
		return "it has a plaintext that was not asked for"
	case (to != nil) != (len(forRecipient) > 0):
		return "it has something for a recipient, and there is none, or the reverse"
	}
	return ""
}

// wrongSealed: length is of the ciphertext with its tag, 0 if the backend defines it.
func wrongSealed(s *backends.Sealed, length int) string {
	n := len(s.Ciphertext)
	if len(s.IV) != ciphertext.IVLen || n < ciphertext.TagLen || n > maxCiphertext-ciphertext.HeaderLen-ciphertext.IVLen || length > 0 && n != length {
		return "the ciphertext or its IV has a wrong length"
	}
	return ""
}

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

func unless(right bool, text string) string {
	if right {
		return ""
	}
	return text
}

// CreateKey implements [backends.Backend].
func (b checked) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	out, err := b.Backend.CreateKey(ctx, in)
	return answered(out, err, func(a *backends.CreateKeyAnswer) string { return wrongPublicKey(in.Key.Spec, a.PublicKey) })
}

// CheckKey implements [backends.Backend].
func (b checked) CheckKey(ctx context.Context, in *backends.CheckKeyRequest) (*backends.CheckKeyAnswer, error) {
	out, err := b.Backend.CheckKey(ctx, in)
	return answered(out, err, func(a *backends.CheckKeyAnswer) string { return wrongPublicKey(in.Key.Spec, a.PublicKey) })
}

// ImportKey implements [backends.Importer].
func (b checked) ImportKey(ctx context.Context, in *backends.ImportKeyRequest) (*backends.ImportKeyAnswer, error) {
	out, err := b.Backend.ImportKey(ctx, in)
	return answered(out, err, func(a *backends.ImportKeyAnswer) string {
		return first(wrongPublicKey(in.Key.Spec, a.PublicKey), unless(len(a.CheckValue) > 0, "it has no check value"),
			unless(!in.TokenOnly || !a.ThroughPlugin, "the material was in the plugin's memory, which was forbidden"))
	})
}

// Encrypt implements [backends.Cipher].
func (b checked) Encrypt(ctx context.Context, in *backends.EncryptRequest) (*backends.EncryptAnswer, error) {
	out, err := b.Backend.Encrypt(ctx, in)
	return answered(out, err, func(a *backends.EncryptAnswer) string {
		if in.Key.Spec == backends.SymmetricDefault {
			return wrongSealed(&a.Sealed, len(in.Plaintext)+ciphertext.TagLen)
		}
		return unless(len(a.Sealed.IV) == 0 && len(a.Sealed.Ciphertext) == modulusLength[in.Key.Spec], "the ciphertext is not as long as the modulus")
	})
}

// Decrypt implements [backends.Cipher].
func (b checked) Decrypt(ctx context.Context, in *backends.DecryptRequest) (*backends.DecryptAnswer, error) {
	out, err := b.Backend.Decrypt(ctx, in)
	return answered(out, err, func(a *backends.DecryptAnswer) string {
		n, right := len(a.Plaintext), in.Recipient != nil
		if in.Key.Spec == backends.SymmetricDefault {
			right = right || n == len(in.Sealed.Ciphertext)-ciphertext.TagLen
		} else {
			right = right || n <= keys.OAEPLimit(in.Key.Spec, in.Algorithm)
		}
		return first(handedOut(in.Recipient == nil, a.Plaintext, in.Recipient, a.ForRecipient), unless(right, "the plaintext has a wrong length"))
	})
}

// ReEncrypt implements [backends.ReEncrypter].
func (b checked) ReEncrypt(ctx context.Context, in *backends.ReEncryptRequest) (*backends.EncryptAnswer, error) {
	out, err := b.Backend.ReEncrypt(ctx, in)
	return answered(out, err, func(a *backends.EncryptAnswer) string { return wrongSealed(&a.Sealed, len(in.Sealed.Ciphertext)) })
}

// GenerateDataKey implements [backends.DataKeyMaker].
func (b checked) GenerateDataKey(ctx context.Context, in *backends.GenerateDataKeyRequest) (*backends.GenerateDataKeyAnswer, error) {
	out, err := b.Backend.GenerateDataKey(ctx, in)
	return answered(out, err, func(a *backends.GenerateDataKeyAnswer) string {
		return first(handedOut(in.Plaintext, a.Plaintext, in.Recipient, a.ForRecipient), wrongSealed(&a.Sealed, 0),
			unless(!in.Plaintext || len(a.Plaintext) == in.Length, "the data key has a wrong length"),
			unless(len(a.PublicKey) == 0, "a data key has a public key"))
	})
}

// GenerateDataKeyPair implements [backends.DataKeyMaker].
func (b checked) GenerateDataKeyPair(ctx context.Context, in *backends.GenerateDataKeyPairRequest) (*backends.GenerateDataKeyAnswer, error) {
	out, err := b.Backend.GenerateDataKeyPair(ctx, in)
	return answered(out, err, func(a *backends.GenerateDataKeyAnswer) string {
		return first(handedOut(in.Plaintext, a.Plaintext, in.Recipient, a.ForRecipient), wrongSealed(&a.Sealed, 0),
			unless(!in.Plaintext || len(a.Plaintext) > 0, "it has no private key"), wrongPublicKey(in.Spec, a.PublicKey))
	})
}

// OpenDataKey implements [backends.DataKeyMaker].
func (b checked) OpenDataKey(ctx context.Context, in *backends.OpenDataKeyRequest) (*backends.OpenDataKeyAnswer, error) {
	out, err := b.Backend.OpenDataKey(ctx, in)
	return answered(out, err, func(a *backends.OpenDataKeyAnswer) string {
		return first(handedOut(in.Plaintext, a.Plaintext, in.Recipient, a.ForRecipient),
			unless(!in.Plaintext || len(a.Plaintext) > 0, "it has no data key"))
	})
}

// GenerateRandom implements [backends.Randomizer].
func (b checked) GenerateRandom(ctx context.Context, in *backends.GenerateRandomRequest) (*backends.GenerateRandomAnswer, error) {
	out, err := b.Backend.GenerateRandom(ctx, in)
	return answered(out, err, func(a *backends.GenerateRandomAnswer) string {
		return first(handedOut(in.Recipient == nil, a.Plaintext, in.Recipient, a.ForRecipient),
			unless(in.Recipient != nil || len(a.Plaintext) == in.Length, "the bytes are too many or too few"))
	})
}

// Sign implements [backends.Signer].
func (b checked) Sign(ctx context.Context, in *backends.SignRequest) (*backends.SignAnswer, error) {
	out, err := b.Backend.Sign(ctx, in)
	return answered(out, err, func(a *backends.SignAnswer) string { return wrongSignature(in.Key.Spec, a.Signature) })
}

// GenerateMAC implements [backends.MACer].
func (b checked) GenerateMAC(ctx context.Context, in *backends.MACRequest) (*backends.MACAnswer, error) {
	out, err := b.Backend.GenerateMAC(ctx, in)
	return answered(out, err, func(a *backends.MACAnswer) string {
		return unless(len(a.MAC) == macLength[in.Algorithm], "the HMAC has a wrong length")
	})
}

// DeriveSharedSecret implements [backends.Agreer].
func (b checked) DeriveSharedSecret(ctx context.Context, in *backends.DeriveSharedSecretRequest) (*backends.DeriveSharedSecretAnswer, error) {
	out, err := b.Backend.DeriveSharedSecret(ctx, in)
	return answered(out, err, func(a *backends.DeriveSharedSecretAnswer) string {
		return first(handedOut(in.Recipient == nil, a.SharedSecret, in.Recipient, a.ForRecipient),
			unless(in.Recipient != nil || len(a.SharedSecret) == curveLength[in.Key.Spec], "the shared secret has a wrong length"))
	})
}

// Encapsulate implements [backends.Encapsulator].
func (b checked) Encapsulate(ctx context.Context, in *backends.EncapsulateRequest) (*backends.EncapsulateAnswer, error) {
	out, err := b.Backend.Encapsulate(ctx, in)
	return answered(out, err, func(a *backends.EncapsulateAnswer) string {
		return unless(len(a.SharedSecret) == kemSecret && len(a.Ciphertext) == kemCiphertext[in.Key.Spec], "the secret or its ciphertext has a wrong length")
	})
}

// Decapsulate implements [backends.Encapsulator].
func (b checked) Decapsulate(ctx context.Context, in *backends.DecapsulateRequest) (*backends.DecapsulateAnswer, error) {
	out, err := b.Backend.Decapsulate(ctx, in)
	return answered(out, err, func(a *backends.DecapsulateAnswer) string {
		return unless(len(a.SharedSecret) == kemSecret, "the shared secret has a wrong length")
	})
}

// Lengths in bytes.
var (
	modulusLength = map[backends.KeySpec]int{backends.RSA2048: 256, backends.RSA3072: 384, backends.RSA4096: 512}
	curveLength   = map[backends.KeySpec]int{backends.P256: 32, backends.P384: 48, backends.P521: 66, backends.Secp256k1: 32}
	macLength     = map[backends.Algorithm]int{"HMAC_SHA_224": 28, "HMAC_SHA_256": 32, "HMAC_SHA_384": 48, "HMAC_SHA_512": 64}
	kemCiphertext = map[backends.KeySpec]int{backends.MLKEM512: 768, backends.MLKEM768: 1088, backends.MLKEM1024: 1568} // FIPS 203, table 3
	signatureSize = map[backends.KeySpec]int{                                                                           // FIPS 204, table 2; RFC 8032
		backends.MLDSA44: 2420, backends.MLDSA65: 3309, backends.MLDSA87: 4627, backends.Ed25519: 64,
		backends.RSA2048: 256, backends.RSA3072: 384, backends.RSA4096: 512,
	}
)

const kemSecret = 32

// wrongSignature checks a signature against the form of its key's spec.
func wrongSignature(spec backends.KeySpec, signature []byte) string {
	n, curve := curveLength[spec]
	if !curve {
		return unless(len(signature) == signatureSize[spec], "the signature has a wrong length")
	}
	var rs struct{ R, S *big.Int } // RFC 3279, section 2.2.3
	rest, err := asn1.Unmarshal(signature, &rs)
	right := err == nil && len(rest) == 0 && rs.R.Sign() > 0 && rs.S.Sign() > 0 && (rs.R.BitLen()+7)/8 <= n && (rs.S.BitLen()+7)/8 <= n
	return unless(right, "the signature is not one of the curve")
}

// publicForm is the form of a SubjectPublicKeyInfo.
type publicForm struct {
	algorithm asn1.ObjectIdentifier
	curve     asn1.ObjectIdentifier // in the parameters
	length    int                   // of the key, in bytes; of RSA of the modulus
}

var (
	oidRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidEC  = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
)

// publicForms: RFC 3279 and 5480, RFC 8410, RFC 9881, RFC 9935.
var publicForms = map[backends.KeySpec]publicForm{
	backends.RSA2048:   {oidRSA, nil, 256},
	backends.RSA3072:   {oidRSA, nil, 384},
	backends.RSA4096:   {oidRSA, nil, 512},
	backends.P256:      {oidEC, asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}, 65},
	backends.P384:      {oidEC, asn1.ObjectIdentifier{1, 3, 132, 0, 34}, 97},
	backends.P521:      {oidEC, asn1.ObjectIdentifier{1, 3, 132, 0, 35}, 133},
	backends.Secp256k1: {oidEC, asn1.ObjectIdentifier{1, 3, 132, 0, 10}, 65},
	backends.Ed25519:   {asn1.ObjectIdentifier{1, 3, 101, 112}, nil, 32},
	backends.MLDSA44:   {asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 17}, nil, 1312},
	backends.MLDSA65:   {asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 18}, nil, 1952},
	backends.MLDSA87:   {asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 19}, nil, 2592},
	backends.MLKEM512:  {asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 1}, nil, 800},
	backends.MLKEM768:  {asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 2}, nil, 1184},
	backends.MLKEM1024: {asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 3}, nil, 1568},
}

// wrongPublicKey checks a public key, DER SubjectPublicKeyInfo, against the key spec:
// keys of one kind have one, of the size that the spec says, and others have none.
func wrongPublicKey(spec backends.KeySpec, der []byte) string {
	form, ok := publicForms[spec]
	if !ok {
		return unless(len(der) == 0, "a secret key has a public key")
	}
	const wrong = "the public key is not one of the key spec"
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 || !info.Algorithm.Algorithm.Equal(form.algorithm) || info.Key.BitLength%8 != 0 {
		return wrong
	}
	if form.curve != nil {
		var curve asn1.ObjectIdentifier
		if rest, err := asn1.Unmarshal(info.Algorithm.Parameters.FullBytes, &curve); err != nil || len(rest) > 0 || !curve.Equal(form.curve) {
			return wrong
		}
	}
	if !form.algorithm.Equal(oidRSA) {
		return unless(len(info.Key.Bytes) == form.length, wrong)
	}
	var key struct{ N, E *big.Int } // RFC 8017, appendix A.1.1
	rest, err := asn1.Unmarshal(info.Key.Bytes, &key)
	right := err == nil && len(rest) == 0 && key.N.BitLen() == 8*form.length && key.N.Bit(0) == 1 && key.E.Bit(0) == 1 && key.E.BitLen() > 1
	return unless(right && key.E.Sign() > 0 && key.N.Sign() > 0, wrong)
}
