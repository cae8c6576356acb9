package kms

import (
	"context"

	"cmkd/backends"
	"cmkd/daemon/access"
	"cmkd/daemon/ciphertext"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/socket/kmsapi"
)

// keys.SymmetricDefault is the algorithm of symmetric keys, and the one meant when
// a request names none.

func algorithmOr(a kmsapi.EncryptionAlgorithmSpec) backends.Algorithm {
	if a == "" {
		return keys.SymmetricDefault
	}
	return backends.Algorithm(a)
}

func (s methods) Encrypt(ctx context.Context, c *journal.Call, in *kmsapi.EncryptRequest) (*kmsapi.EncryptResponse, error) {
	algorithm := algorithmOr(in.EncryptionAlgorithm)
	memory := new(struct { // one piece
		d   access.Demand
		out kmsapi.EncryptResponse
	})
	d := &memory.d
	d.KeyID, d.Algorithm, d.GrantTokens, d.Context = in.KeyId, algorithm, in.GrantTokens, in.EncryptionContext
	d.Say("kms:EncryptionAlgorithm", string(algorithm))
	k, err := s.Admit(ctx, c, d)
	if err != nil {
		return nil, err
	}
	if err := checkEncryptInput(k, algorithm, in.Plaintext, in.EncryptionContext); err != nil {
		return nil, err
	}
	if in.DryRun {
		return nil, errDryRun()
	}
	ciphertext, _, err := s.seal(ctx, k, algorithm, in.Plaintext, in.EncryptionContext)
	if err != nil {
		return nil, err
	}
	memory.out = kmsapi.EncryptResponse{
		CiphertextBlob: ciphertext, KeyId: k.ARN, EncryptionAlgorithm: kmsapi.EncryptionAlgorithmSpec(algorithm),
	}
	return &memory.out, nil
}

// checkEncryptInput checks the plaintext and context against what the
// algorithm takes.
func checkEncryptInput(k *access.Key, algorithm backends.Algorithm, plaintext []byte, context map[string]string) error {
	if algorithm == keys.SymmetricDefault {
		return nil
	}
	if err := checkNoContext(context); err != nil {
		return err
	}
	if most := keys.OAEPLimit(k.Spec, algorithm); len(plaintext) > most {
		return kmsapi.Errorf(kmsapi.CodeValidationException,
			"Algorithm %s and key spec %s cannot encrypt data larger than %d bytes.", algorithm, k.Spec, most)
	}
	return nil
}

func checkNoContext(context map[string]string) error {
	if len(context) > 0 {
		return kmsapi.Errorf(kmsapi.CodeValidationException, "EncryptionContext is not supported when encrypting/decrypting with asymmetric CMKs.")
	}
	return nil
}

// seal encrypts under the current version of the key and returns the blob, or
// the bare RSA ciphertext, and the key material ID.
func (s *Service) seal(ctx context.Context, k *access.Key, algorithm backends.Algorithm, plaintext []byte, context map[string]string) ([]byte, string, error) {
	v, err := k.Current()
	if err != nil {
		return nil, "", err
	}
	memory := new(struct { // one piece
		req backends.EncryptRequest
		b   ciphertext.Blob
		aad [ciphertext.AADSize]byte
	})
	req := &memory.req
	*req = backends.EncryptRequest{Key: k.Ref(v), Algorithm: algorithm, Plaintext: plaintext}
	if algorithm != keys.SymmetricDefault {
		made, err := k.Backend.Encrypt(ctx, req)
		if err != nil {
			return nil, "", err
		}
		return made.Sealed.Ciphertext, "", nil
	}
	if err := s.Counters.Take(ctx, s.Store, v); err != nil {
		return nil, "", err
	}
	b := &memory.b
	*b = ciphertext.Blob{Kind: ciphertext.Plaintext, KeyID: k.ID, Material: v.MaterialID}
	req.AAD = b.AppendAAD(memory.aad[:0], s.Account, context)
	made, err := k.Backend.Encrypt(ctx, req)
	if err != nil {
		return nil, "", err
	}
	b.Sealed = made.Sealed
	return b.Marshal(), v.MaterialID, nil
}

func (s methods) Decrypt(ctx context.Context, c *journal.Call, in *kmsapi.DecryptRequest) (*kmsapi.DecryptResponse, error) {
	algorithm := algorithmOr(in.EncryptionAlgorithm)
	recipient, err := s.recipient(c, in.Recipient)
	if err != nil {
		return nil, err
	}
	src, err := s.admitSource(ctx, c, &source{
		ciphertext: in.CiphertextBlob, algorithm: algorithm, keyID: in.KeyId, context: in.EncryptionContext,
		grantTokens: in.GrantTokens, dryRun: in.DryRun, modifiers: in.DryRunModifiers,
		wantsPlaintext: recipient == nil,
	})
	if err != nil {
		return nil, err
	}
	if in.DryRun && src.ignored {
		return nil, errDryRun()
	}
	opened, err := s.open(ctx, src, recipient)
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		clear(opened.Plaintext)
		return nil, errDryRun()
	}
	return &kmsapi.DecryptResponse{
		KeyId: src.key.ARN, Plaintext: opened.Plaintext, CiphertextForRecipient: opened.ForRecipient,
		EncryptionAlgorithm: kmsapi.EncryptionAlgorithmSpec(algorithm), KeyMaterialId: src.material(),
	}, nil
}

func (s methods) ReEncrypt(ctx context.Context, c *journal.Call, in *kmsapi.ReEncryptRequest) (*kmsapi.ReEncryptResponse, error) {
	from, to := algorithmOr(in.SourceEncryptionAlgorithm), algorithmOr(in.DestinationEncryptionAlgorithm)
	src, err := s.admitSource(ctx, c, &source{
		ciphertext: in.CiphertextBlob, algorithm: from, keyID: in.SourceKeyId, context: in.SourceEncryptionContext,
		action: keys.ActionNamed("ReEncryptFrom"), grantTokens: in.GrantTokens, dryRun: in.DryRun, modifiers: in.DryRunModifiers,
		destination: in.DestinationKeyId, toRSA: to != keys.SymmetricDefault,
	})
	if err != nil {
		return nil, err
	}
	dst, err := s.Admit(ctx, c, &access.Demand{
		KeyID: in.DestinationKeyId, Action: keys.ActionNamed("ReEncryptTo"), Algorithm: to,
		GrantTokens: in.GrantTokens, Context: in.DestinationEncryptionContext,
		OtherKey: src.key.ARN, Conditions: []access.Condition{access.Says("kms:EncryptionAlgorithm", to)},
	})
	if err != nil {
		return nil, err
	}
	if to != keys.SymmetricDefault {
		if err := checkNoContext(in.DestinationEncryptionContext); err != nil {
			return nil, err
		}
	}
	if in.DryRun && src.ignored {
		return nil, errDryRun()
	}
	made, err := s.move(ctx, src, dst, to, in.DestinationEncryptionContext)
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		return nil, errDryRun()
	}
	return &kmsapi.ReEncryptResponse{
		CiphertextBlob: made.ciphertext, SourceKeyId: src.key.ARN, KeyId: dst.ARN,
		SourceEncryptionAlgorithm:      kmsapi.EncryptionAlgorithmSpec(from),
		DestinationEncryptionAlgorithm: kmsapi.EncryptionAlgorithmSpec(to),
		SourceKeyMaterialId:            src.material(), DestinationKeyMaterialId: made.material,
	}, nil
}

// moved is a ciphertext under its new key.
type moved struct {
	ciphertext []byte
	material   string
}

// errUnmarkedDataKey refuses to move a data key to an RSA key: unlike a blob, an
// RSA ciphertext does not say that it holds a data key, so Decrypt would give it
// out in the clear.
func errUnmarkedDataKey() error {
	return kmsapi.Errorf(kmsapi.CodeAccessDeniedException,
		"Data keys leave this service only wrapped: plaintext_data_keys is false in its configuration, "+
			"and a data key under an RSA key could be decrypted like any other plaintext.")
}

// move re-encrypts. Between symmetric keys of one token the plaintext stays in
// the plugin, and a wrapped data key is not unwrapped at all. A data key on
// its way to an RSA key is wrapped to that key in the token.
func (s *Service) move(ctx context.Context, src *admittedSource, dst *access.Key, to backends.Algorithm, context map[string]string) (*moved, error) {
	symmetric := src.algorithm == keys.SymmetricDefault && to == keys.SymmetricDefault
	switch {
	case symmetric && src.key.Token == dst.Token:
		return s.moveInToken(ctx, src, dst, context)
	case src.blob != nil && src.blob.Kind != ciphertext.Plaintext && to != keys.SymmetricDefault && !s.plaintextDataKeys:
		return nil, s.refuseKind(ctx, src, errUnmarkedDataKey())
	case src.blob != nil && src.blob.Kind != ciphertext.Plaintext && to != keys.SymmetricDefault:
		opened, err := s.open(ctx, src, &backends.Recipient{PublicKey: dst.PublicKey, Algorithm: to, ThroughPlugin: true})
		if err != nil {
			return nil, err
		}
		if len(opened.ForRecipient) > keys.OAEPLimit(dst.Spec, "RSAES_OAEP_SHA_1")+42 {
			return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "The data key is too long for key spec %s.", dst.Spec)
		}
		return &moved{ciphertext: opened.ForRecipient}, nil
	case src.blob != nil && src.blob.Kind != ciphertext.Plaintext:
		return nil, s.refuseKind(ctx, src, kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException,
			"A wrapped data key cannot move to another token: it is wrapped under a key of the token that made it."))
	}
	opened, err := s.open(ctx, src, nil)
	if err != nil {
		return nil, err
	}
	defer clear(opened.Plaintext)
	if err := checkEncryptInput(dst, to, opened.Plaintext, context); err != nil {
		return nil, err
	}
	ciphertext, material, err := s.seal(ctx, dst, to, opened.Plaintext, context)
	return &moved{ciphertext: ciphertext, material: material}, err
}

func (s *Service) moveInToken(ctx context.Context, src *admittedSource, dst *access.Key, context map[string]string) (*moved, error) {
	v, err := dst.Current()
	if err != nil {
		return nil, err
	}
	if err := s.Counters.Take(ctx, s.Store, v); err != nil {
		return nil, err
	}
	b := &ciphertext.Blob{Kind: src.blob.Kind, KeyID: dst.ID, Material: v.MaterialID}
	made, err := dst.Backend.ReEncrypt(ctx, &backends.ReEncryptRequest{
		Source: src.ref, Sealed: src.blob.Sealed, SourceAAD: src.aad,
		Destination: dst.Ref(v), DestinationAAD: b.AAD(s.Account, context),
	})
	if err != nil {
		return nil, err
	}
	b.Sealed = made.Sealed
	return &moved{ciphertext: b.Marshal(), material: v.MaterialID}, nil
}
