package kms

import (
	"context"
	"slices"

	"cmkd/backends"
	"cmkd/daemon/access"
	"cmkd/daemon/ciphertext"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// source is a ciphertext that a call wants opened.
type source struct {
	ciphertext  []byte
	algorithm   backends.Algorithm
	keyID       string // "" if the client leaves it to the ciphertext
	action      *keys.Action
	context     map[string]string
	grantTokens []string
	dryRun      bool
	modifiers   []kmsapi.DryRunModifierType
	destination string // of ReEncrypt
	// wantsPlaintext: what is inside is to leave in the clear.
	wantsPlaintext bool
	// toRSA: it is to go under an RSA key, which cannot say that it is a data
	// key, so that Decrypt would give it out.
	toRSA bool
}

// admittedSource is a source whose key the caller may use.
type admittedSource struct {
	key       *access.Key
	algorithm backends.Algorithm
	blob      *ciphertext.Blob // nil for RSA
	ref       backends.Key
	aad       []byte
	rsa       []byte // ciphertext of an RSA key
	// ignored: the ciphertext does not count (DryRun with IGNORE_CIPHERTEXT).
	ignored bool
}

// material is the key material ID that the ciphertext names.
func (a *admittedSource) material() string {
	if a.blob == nil {
		return ""
	}
	return a.blob.Material
}

// admitSource finds the key of a ciphertext and admits the call to it.
func (s *Service) admitSource(ctx context.Context, c *journal.Call, src *source) (*admittedSource, error) {
	d := &access.Demand{
		KeyID: src.keyID, Action: src.action, Algorithm: src.algorithm, GrantTokens: src.grantTokens, Context: src.context, OtherKey: src.destination,
	}
	d.Say("kms:EncryptionAlgorithm", string(src.algorithm))
	if err := access.CheckGrantTokens(src.grantTokens); err != nil {
		return nil, err
	}
	if err := access.CheckContext(src.context); err != nil {
		return nil, err
	}
	a := &admittedSource{
		algorithm: src.algorithm,
		ignored:   src.dryRun && slices.Contains(src.modifiers, kmsapi.DryRunModifierTypeIgnoreCiphertext),
	}
	if len(src.modifiers) > 0 && !src.dryRun {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "DryRunModifiers requires DryRun.")
	}
	if len(src.ciphertext) == 0 && !a.ignored {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException,
			"1 validation error detected: Value null at 'ciphertextBlob' failed to satisfy constraint: Member must not be null")
	}
	if src.keyID == "" && (a.ignored || src.algorithm != keys.SymmetricDefault) {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "KeyId must not be null")
	}
	if err := s.admitSourceKey(ctx, c, d, src, a); err != nil {
		return nil, err
	}
	if a.ignored {
		return a, nil
	}
	if src.algorithm != keys.SymmetricDefault {
		if err := checkNoContext(src.context); err != nil {
			return nil, err
		}
		a.rsa = src.ciphertext
		ref, err := a.key.CurrentRef()
		a.ref = ref
		return a, err
	}
	if err := s.bind(c, src, a); err != nil {
		return nil, err
	}
	if src.wantsPlaintext && a.blob.Kind != ciphertext.Plaintext && !s.plaintextDataKeys {
		return nil, s.refuseKind(ctx, a, errWrappedDataKey())
	}
	return a, nil
}

// bind finds the key material that the blob names, and what is authenticated with
// it.
func (s *Service) bind(c *journal.Call, src *source, a *admittedSource) error {
	a.aad = a.blob.AAD(s.Account, src.context)
	if v, ok := c.View.Version(a.key.ID, a.blob.Material); ok && v.State != keys.Discarded {
		if s.ImportState(v) == kmsapi.ImportStatePendingImport {
			return journal.InvalidState(a.key.ARN, "pending import")
		}
		a.ref = a.key.Ref(v)
		return a.key.Usable(v)
	}
	// A material ID that is not of this key: the header was altered. The
	// token refuses it like every other alteration, in the same time.
	ref, err := a.key.CurrentRef()
	a.ref = ref
	return err
}

// refuseKind refuses with err what the ciphertext says that it holds, once the
// token has said that nothing in it was altered: until then the kind is anybody's.
// Of an altered ciphertext it says that.
func (s *Service) refuseKind(ctx context.Context, a *admittedSource, err error) error {
	made, altered := a.key.Backend.Decrypt(ctx, &backends.DecryptRequest{
		Key: a.ref, Algorithm: keys.SymmetricDefault, AAD: a.aad, Sealed: a.blob.Sealed,
	})
	if altered != nil {
		return altered
	}
	clear(made.Plaintext)
	return err
}

// admitSourceKey admits the key that the client or the ciphertext names.
func (s *Service) admitSourceKey(ctx context.Context, c *journal.Call, d *access.Demand, src *source, a *admittedSource) error {
	b, parsed := ciphertext.Parse(src.ciphertext)
	if !parsed || src.algorithm != keys.SymmetricDefault {
		b = nil
	}
	d.PlaintextDataKey = (src.wantsPlaintext || src.toRSA) && b != nil && b.Kind != ciphertext.Plaintext
	if src.algorithm == keys.SymmetricDefault && !a.ignored {
		a.blob = b
		d.Ciphertext = func(row *store.Key) error { return access.CheckBlob(c.View, b, row) }
	}
	admit := func() error {
		var err error
		a.key, err = s.AdmitNamed(ctx, c, d, b)
		return err
	}
	err := admit()
	if e, ok := journal.AsError[*kmsapi.Error](err); !ok || e.Code != kmsapi.CodeAccessDeniedException || !d.PlaintextDataKey {
		return err
	}
	// The policies were asked about a data key because the ciphertext says so. If
	// they would allow a plaintext, it must be whole before that is the reason.
	denied, used := c.Record, c.Used
	d.PlaintextDataKey = false
	switch again := admit(); {
	case access.IsInvalidCiphertext(again): // its key ID was altered
		err = again
	case again == nil && a.blob != nil && s.bind(c, src, a) == nil:
		err = s.refuseKind(ctx, a, err)
	}
	c.Used = used
	s.Restore(c, denied)
	return err
}

// open decrypts the source, to the recipient if there is one.
func (s *Service) open(ctx context.Context, a *admittedSource, to *backends.Recipient) (*backends.DecryptAnswer, error) {
	if a.blob != nil && a.blob.Kind != ciphertext.Plaintext {
		out, err := a.key.Backend.OpenDataKey(ctx, &backends.OpenDataKeyRequest{
			Key: a.ref, Sealed: a.blob.Sealed, AAD: a.aad, Pair: a.blob.Kind == ciphertext.PrivateKey,
			Recipient: to, Plaintext: to == nil,
		})
		if err != nil {
			return nil, err
		}
		return &backends.DecryptAnswer{Plaintext: out.Plaintext, ForRecipient: out.ForRecipient}, nil
	}
	req := &backends.DecryptRequest{Key: a.ref, Algorithm: a.algorithm, AAD: a.aad, Recipient: to}
	if a.blob != nil {
		req.Sealed = a.blob.Sealed
	} else {
		req.Sealed = backends.Sealed{Ciphertext: a.rsa}
	}
	return a.key.Backend.Decrypt(ctx, req)
}
