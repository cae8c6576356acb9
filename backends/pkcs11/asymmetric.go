package pkcs11

import (
	"context"
	"errors"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/probe"
	"cmkd/backends/pkcs11/internal/token"
)

// Asymmetric is the backend of RSA, elliptic curve and post-quantum keys. It
// implements [backends.Backend], [backends.Cipher], [backends.Signer],
// [backends.Agreer], [backends.Importer] and [backends.Encapsulator].
type Asymmetric struct {
	*Token
	signs *probe.PairProfile
	// purposes has a purpose, or refused why there is none, for each kind.
	purposes map[token.Kind]*token.Purpose
	refused  map[token.Kind]error
}

// NewAsymmetric probes what t can do with key pairs and returns their backend.
// Closing it closes t. A token in which the probe has left keys loaded is opened again,
// and t is closed.
func NewAsymmetric(ctx context.Context, t *Token) (*Asymmetric, error) {
	fresh, signs, err := probe.Pairs(ctx, t.Token)
	if err != nil {
		return nil, err
	}
	if fresh != t.Token {
		if t, err = opened(fresh); err != nil {
			return nil, err
		}
	}
	b := &Asymmetric{Token: t, signs: signs, purposes: make(map[token.Kind]*token.Purpose), refused: make(map[token.Kind]error)}
	for _, s := range der.AsymmetricSpecs {
		for _, usage := range s.Usages {
			k := token.Kind{Spec: s.Spec, Usage: usage}
			if u, err := signs.Purpose(t.Profile, k); err != nil {
				b.refused[k] = err
			} else {
				b.purposes[k] = u
			}
		}
	}
	return b, nil
}

// Purpose returns what the private key of a pair is in the token.
func (b *Asymmetric) purpose(key *backends.Key) (*token.Purpose, error) {
	k := token.Kind{Spec: key.Spec, Usage: key.Usage}
	if u := b.purposes[k]; u != nil {
		return u, nil
	}
	if err := b.refused[k]; err != nil {
		return nil, err
	}
	if k.Usage == backends.UnwrapImport {
		return b.wrappingPurpose(key)
	}
	return nil, backends.Errorf(backends.InvalidRequest, "this backend has no key of spec %s and usage %s", key.Spec, key.Usage)
}

// purposeFor is purpose for a call that needs a key of some usage.
func (b *Asymmetric) purposeFor(key *backends.Key, usage backends.Usage) (*token.Purpose, error) {
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
	for _, s := range der.AsymmetricSpecs {
		info := backends.SpecInfo{Spec: s.Spec}
		var why error
		for _, usage := range s.Usages {
			if err := b.refused[token.Kind{Spec: s.Spec, Usage: usage}]; err != nil {
				why = err
			} else {
				info.Usages = append(info.Usages, usage)
			}
		}
		if e, ok := errors.AsType[*backends.Error](why); ok && info.Usages == nil {
			info.Usages, info.Unsupported = s.Usages, e.Message
		}
		specs = append(specs, info)
	}
	answer := b.infoAnswer(specs)
	for name, value := range b.signs.Facts {
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
		b.Note(in.Key.ID, true)
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
