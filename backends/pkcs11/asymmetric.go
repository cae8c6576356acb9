package pkcs11

import (
	"context"
	"errors"

	"cmkd/backends"
)

// Asymmetric is the backend of RSA, elliptic curve and post-quantum keys. It
// implements [backends.Backend], [backends.Cipher], [backends.Signer],
// [backends.Agreer], [backends.Importer] and [backends.Encapsulator].
type Asymmetric struct {
	*Token
	signs *signProfile
	// purposes has a purpose, or refused why there is none, for each kind.
	purposes map[kind]*purpose
	refused  map[kind]error
}

// asymmetricSpecs are the specs in the order in which Info names them, with
// the usages that AWS KMS gives them.
var asymmetricSpecs = []struct {
	spec   backends.KeySpec
	usages []backends.Usage
}{
	{backends.RSA2048, []backends.Usage{backends.EncryptDecrypt, backends.SignVerify}},
	{backends.RSA3072, []backends.Usage{backends.EncryptDecrypt, backends.SignVerify}},
	{backends.RSA4096, []backends.Usage{backends.EncryptDecrypt, backends.SignVerify}},
	{backends.P256, []backends.Usage{backends.SignVerify, backends.KeyAgreement}},
	{backends.P384, []backends.Usage{backends.SignVerify, backends.KeyAgreement}},
	{backends.P521, []backends.Usage{backends.SignVerify, backends.KeyAgreement}},
	{backends.Secp256k1, []backends.Usage{backends.SignVerify}},
	{backends.Ed25519, []backends.Usage{backends.SignVerify}},
	{backends.MLDSA44, []backends.Usage{backends.SignVerify}},
	{backends.MLDSA65, []backends.Usage{backends.SignVerify}},
	{backends.MLDSA87, []backends.Usage{backends.SignVerify}},
	{backends.MLKEM512, []backends.Usage{backends.EncapsulateDecapsulate}},
	{backends.MLKEM768, []backends.Usage{backends.EncapsulateDecapsulate}},
	{backends.MLKEM1024, []backends.Usage{backends.EncapsulateDecapsulate}},
}

// NewAsymmetric probes what t can do with key pairs and returns their backend.
// Closing it closes t. A token in which the probe has left keys loaded is opened anew,
// and t is closed.
func NewAsymmetric(ctx context.Context, t *Token) (*Asymmetric, error) {
	t, signs, err := t.probed(ctx)
	if err != nil {
		return nil, err
	}
	b := &Asymmetric{Token: t, signs: signs, purposes: make(map[kind]*purpose), refused: make(map[kind]error)}
	for _, s := range asymmetricSpecs {
		for _, usage := range s.usages {
			k := kind{s.spec, usage}
			if u, err := signs.purpose(t.profile, k); err != nil {
				b.refused[k] = err
			} else {
				b.purposes[k] = u
			}
		}
	}
	return b, nil
}

// purpose returns what the private key of a pair is in the token.
func (b *Asymmetric) purpose(key *backends.Key) (*purpose, error) {
	k := kind{key.Spec, key.Usage}
	if u := b.purposes[k]; u != nil {
		return u, nil
	}
	if err := b.refused[k]; err != nil {
		return nil, err
	}
	if k.usage == backends.UnwrapImport {
		return b.wrappingPurpose(key)
	}
	return nil, backends.Errorf(backends.InvalidRequest, "this backend has no key of spec %s and usage %s", key.Spec, key.Usage)
}

// purposeFor is purpose for a call that needs a key of some usage.
func (b *Asymmetric) purposeFor(key *backends.Key, usage backends.Usage) (*purpose, error) {
	if key.Usage != usage {
		return nil, backends.Errorf(backends.InvalidRequest, "a key of usage %s is not one of usage %s", key.Usage, usage)
	}
	return b.purpose(key)
}

// Info implements [backends.Backend]. A spec is supported if one of its usages
// is; those that are not are left out then.
func (b *Asymmetric) Info(ctx context.Context, in *backends.InfoRequest) (*backends.InfoAnswer, error) {
	if err := b.prove(ctx, in); err != nil {
		return nil, err
	}
	var specs []backends.SpecInfo
	for _, s := range asymmetricSpecs {
		info := backends.SpecInfo{Spec: s.spec}
		var why error
		for _, usage := range s.usages {
			if err := b.refused[kind{s.spec, usage}]; err != nil {
				why = err
			} else {
				info.Usages = append(info.Usages, usage)
			}
		}
		if e, ok := errors.AsType[*backends.Error](why); ok && info.Usages == nil {
			info.Usages, info.Unsupported = s.usages, e.Message
		}
		specs = append(specs, info)
	}
	answer := b.infoAnswer(specs)
	for name, value := range b.signs.facts {
		answer.Facts[name] = value
	}
	return answer, nil
}

// CreateKey implements [backends.Backend].
func (b *Asymmetric) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	u, err := b.purpose(&in.Key)
	if err != nil {
		return nil, err
	}
	out, err := b.createPair(ctx, in, u)
	if err == nil {
		b.note(in.Key.ID, true)
	}
	return out, err
}

// CheckKey implements [backends.Backend]. It reads the attributes now.
func (b *Asymmetric) CheckKey(ctx context.Context, in *backends.CheckKeyRequest) (*backends.CheckKeyAnswer, error) {
	u, err := b.purpose(&in.Key)
	if err != nil {
		return nil, err
	}
	return b.checkPair(ctx, in, u)
}
