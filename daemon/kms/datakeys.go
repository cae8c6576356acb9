package kms

import (
	"context"
	"slices"

	"cmkd/backends"
	"cmkd/daemon/access"
	"cmkd/daemon/ciphertext"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/keys"
	"cmkd/daemon/lifecycle"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// errPlaintextDataKey refuses a data key in the clear.
func errPlaintextDataKey() error {
	return kmsapi.Errorf(kmsapi.CodeAccessDeniedException,
		"Data keys leave this service only wrapped: plaintext_data_keys is false in its configuration. "+
			"Use GenerateDataKeyWithoutPlaintext or GenerateDataKeyPairWithoutPlaintext, or send a Recipient with your RSA public key; "+
			"cmkctl dev takes --plaintext-data-keys.")
}

// errWrappedDataKey refuses to decrypt a data key in the clear.
func errWrappedDataKey() error {
	return kmsapi.Errorf(kmsapi.CodeAccessDeniedException,
		"The ciphertext is a data key, and data keys leave this service only wrapped: plaintext_data_keys is false in its configuration. "+
			"Send a Recipient with your RSA public key, as the library cmkd/socket/client does; cmkctl dev takes --plaintext-data-keys.")
}

// dataKeyCall is what the four data key operations have in common.
type dataKeyCall struct {
	keyID       string
	context     map[string]string
	grantTokens []string
	recipient   *kmsapi.RecipientInfo
	plaintext   bool // the operation returns the data key itself
	pair        bool // it makes a key pair
	dryRun      bool
	pairSpec    kmsapi.DataKeyPairSpec
}

// dataKeyTarget is an admitted dataKeyCall.
type dataKeyTarget struct {
	key       *access.Key
	version   *store.Version
	wrapping  backends.Key
	recipient *backends.Recipient
	plaintext bool
}

func (s *Service) admitDataKey(ctx context.Context, c *journal.Call, in *dataKeyCall) (*dataKeyTarget, error) {
	recipient, err := s.recipient(c, in.recipient)
	if err != nil {
		return nil, err
	}
	d := &access.Demand{KeyID: in.keyID, GrantTokens: in.grantTokens, Context: in.context, PlaintextDataKey: in.plaintext && recipient == nil}
	if in.pairSpec != "" {
		d.Say("kms:DataKeyPairSpec", string(in.pairSpec))
	}
	d.Say("kms:EncryptionAlgorithm", keys.SymmetricDefault)
	k, err := s.Admit(ctx, c, d)
	if err != nil {
		return nil, err
	}
	if k.Spec != keys.SymmetricDefault {
		return nil, kmsapi.Errorf(kmsapi.CodeInvalidKeyUsageException, "You cannot generate a data key with an asymmetric CMK")
	}
	if in.pair && k.CustomKeyStoreID != "" {
		return nil, access.WrongOrigin(k) // AWS makes no pairs under keys of custom key stores
	}
	t := &dataKeyTarget{key: k, recipient: recipient, plaintext: in.plaintext && recipient == nil}
	if t.plaintext && !s.plaintextDataKeys {
		return nil, errPlaintextDataKey()
	}
	if t.version, err = k.Current(); err != nil {
		return nil, err
	}
	if t.wrapping, err = s.wrappingKey(c.View, k.Token); err != nil {
		return nil, err
	}
	if in.dryRun {
		return nil, errDryRun()
	}
	return t, s.Counters.Take(ctx, s.Store, t.version)
}

// wrappingKey is the current data-key wrapping key of a token.
func (s *Service) wrappingKey(view *store.View, token string) (backends.Key, error) {
	w, ok := view.CurrentSystemKey(token, keyring.PurposeWrapping)
	if !ok {
		if _, info, known := s.Router.Route(token, backends.AES256); known && info.Unsupported != "" {
			return backends.Key{}, kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException,
				"Data keys are not supported: token %s lacks %s.", token, info.Unsupported)
		}
		return backends.Key{}, kmsapi.Errorf(kmsapi.CodeKMSInvalidStateException, "Token %s has no data-key wrapping key: run cmkd -init.", token)
	}
	return keyring.SystemKeyRef(w), nil
}

// blob is the blob that the data key goes into.
func (t *dataKeyTarget) blob(kind ciphertext.Kind) *ciphertext.Blob {
	return &ciphertext.Blob{Kind: kind, KeyID: t.key.ID, Material: t.version.MaterialID}
}

// dataKeyLength reads KeySpec or NumberOfBytes: one of them.
func dataKeyLength(spec kmsapi.DataKeySpec, bytes int32) (int, error) {
	switch {
	case (spec == "") == (bytes == 0):
		return 0, kmsapi.Errorf(kmsapi.CodeValidationException, "Please specify either number of bytes or key spec.")
	case spec == kmsapi.DataKeySpecAES256:
		return 32, nil
	case spec == kmsapi.DataKeySpecAES128:
		return 16, nil
	}
	return int(bytes), nil
}

func (s methods) GenerateDataKey(ctx context.Context, c *journal.Call, in *kmsapi.GenerateDataKeyRequest) (*kmsapi.GenerateDataKeyResponse, error) {
	call := &dataKeyCall{
		keyID: in.KeyId, context: in.EncryptionContext, grantTokens: in.GrantTokens,
		recipient: in.Recipient, plaintext: true, dryRun: in.DryRun,
	}
	return s.makeDataKey(ctx, c, call, in.KeySpec, in.NumberOfBytes)
}

func (s methods) GenerateDataKeyWithoutPlaintext(ctx context.Context, c *journal.Call, in *kmsapi.GenerateDataKeyWithoutPlaintextRequest) (*kmsapi.GenerateDataKeyWithoutPlaintextResponse, error) {
	call := &dataKeyCall{keyID: in.KeyId, context: in.EncryptionContext, grantTokens: in.GrantTokens, dryRun: in.DryRun}
	out, err := s.makeDataKey(ctx, c, call, in.KeySpec, in.NumberOfBytes)
	if err != nil {
		return nil, err
	}
	return &kmsapi.GenerateDataKeyWithoutPlaintextResponse{
		CiphertextBlob: out.CiphertextBlob, KeyId: out.KeyId, KeyMaterialId: out.KeyMaterialId,
	}, nil
}

func (s *Service) makeDataKey(ctx context.Context, c *journal.Call, call *dataKeyCall, spec kmsapi.DataKeySpec, bytes int32) (*kmsapi.GenerateDataKeyResponse, error) {
	length, err := dataKeyLength(spec, bytes)
	if err != nil {
		return nil, err
	}
	t, err := s.admitDataKey(ctx, c, call)
	if err != nil {
		return nil, err
	}
	b := t.blob(ciphertext.DataKey)
	made, err := t.key.Backend.GenerateDataKey(ctx, &backends.GenerateDataKeyRequest{
		Key: t.key.Ref(t.version), Wrapping: t.wrapping, Length: length,
		AAD: b.AAD(s.Account, call.context), Recipient: t.recipient, Plaintext: t.plaintext,
	})
	if err != nil {
		return nil, err
	}
	b.Sealed = made.Sealed
	return &kmsapi.GenerateDataKeyResponse{
		CiphertextBlob: b.Marshal(), Plaintext: made.Plaintext, CiphertextForRecipient: made.ForRecipient,
		KeyId: t.key.ARN, KeyMaterialId: t.version.MaterialID,
	}, nil
}

func (s methods) GenerateDataKeyPair(ctx context.Context, c *journal.Call, in *kmsapi.GenerateDataKeyPairRequest) (*kmsapi.GenerateDataKeyPairResponse, error) {
	call := &dataKeyCall{
		keyID: in.KeyId, context: in.EncryptionContext, grantTokens: in.GrantTokens,
		recipient: in.Recipient, plaintext: true, dryRun: in.DryRun,
	}
	return s.makeDataKeyPair(ctx, c, call, in.KeyPairSpec)
}

func (s methods) GenerateDataKeyPairWithoutPlaintext(ctx context.Context, c *journal.Call, in *kmsapi.GenerateDataKeyPairWithoutPlaintextRequest) (*kmsapi.GenerateDataKeyPairWithoutPlaintextResponse, error) {
	call := &dataKeyCall{keyID: in.KeyId, context: in.EncryptionContext, grantTokens: in.GrantTokens, dryRun: in.DryRun}
	out, err := s.makeDataKeyPair(ctx, c, call, in.KeyPairSpec)
	if err != nil {
		return nil, err
	}
	return &kmsapi.GenerateDataKeyPairWithoutPlaintextResponse{
		PrivateKeyCiphertextBlob: out.PrivateKeyCiphertextBlob, PublicKey: out.PublicKey,
		KeyId: out.KeyId, KeyPairSpec: out.KeyPairSpec, KeyMaterialId: out.KeyMaterialId,
	}, nil
}

// dataKeyPairSpecs are the pairs that a token can wrap as PKCS#8.
var dataKeyPairSpecs = []backends.KeySpec{
	backends.RSA2048, backends.RSA3072, backends.RSA4096, backends.P256, backends.P384, backends.P521,
	backends.Secp256k1, backends.Ed25519,
}

func (s *Service) makeDataKeyPair(ctx context.Context, c *journal.Call, call *dataKeyCall, spec kmsapi.DataKeyPairSpec) (*kmsapi.GenerateDataKeyPairResponse, error) {
	if !slices.Contains(dataKeyPairSpecs, backends.KeySpec(spec)) {
		return nil, kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "KeyPairSpec %s is not supported.", spec)
	}
	call.pair = true
	call.pairSpec = spec
	t, err := s.admitDataKey(ctx, c, call)
	if err != nil {
		return nil, err
	}
	b := t.blob(ciphertext.PrivateKey)
	made, err := t.key.Backend.GenerateDataKeyPair(ctx, &backends.GenerateDataKeyPairRequest{
		Key: t.key.Ref(t.version), Wrapping: t.wrapping, Spec: backends.KeySpec(spec),
		AAD: b.AAD(s.Account, call.context), Recipient: t.recipient, Plaintext: t.plaintext,
	})
	if err != nil {
		return nil, err
	}
	b.Sealed = made.Sealed
	return &kmsapi.GenerateDataKeyPairResponse{
		PrivateKeyCiphertextBlob: b.Marshal(), PrivateKeyPlaintext: made.Plaintext,
		CiphertextForRecipient: made.ForRecipient, PublicKey: made.PublicKey,
		KeyId: t.key.ARN, KeyPairSpec: spec, KeyMaterialId: t.version.MaterialID,
	}, nil
}

func (s methods) GenerateRandom(ctx context.Context, c *journal.Call, in *kmsapi.GenerateRandomRequest) (*kmsapi.GenerateRandomResponse, error) {
	if in.NumberOfBytes == 0 {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "NumberOfBytes is required.")
	}
	recipient, err := s.recipient(c, in.Recipient)
	if err != nil {
		return nil, err
	}
	if err := s.AuthoriseAccount(c, &access.Demand{}); err != nil {
		return nil, err
	}
	token, err := s.randomToken(c, in.CustomKeyStoreId)
	if err != nil {
		return nil, err
	}
	// The plugin of symmetric keys makes them, also in a token that holds no such keys.
	b, _, ok := s.Router.Route(token, backends.SymmetricDefault)
	if !ok {
		return nil, kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "GenerateRandom is not supported: no plugin serves symmetric keys.")
	}
	made, err := b.GenerateRandom(ctx, &backends.GenerateRandomRequest{Length: int(in.NumberOfBytes), Recipient: recipient})
	if err != nil {
		return nil, err
	}
	return &kmsapi.GenerateRandomResponse{Plaintext: made.Plaintext, CiphertextForRecipient: made.ForRecipient}, nil
}

// randomToken is the token whose generator the caller asks for.
func (s *Service) randomToken(c *journal.Call, customKeyStore string) (string, error) {
	if customKeyStore == "" {
		return s.Token, nil
	}
	row, ok := c.View.CustomKeyStore(c.Region, customKeyStore)
	switch {
	case !ok:
		return "", lifecycle.ErrStoreNotFound(customKeyStore)
	case row.ConnectionState != kmsapi.ConnectionStateTypeConnected || !s.Router.Available(row.Token, backends.SymmetricDefault):
		return "", lifecycle.ErrStoreState(row, "Connect it first.")
	}
	return row.Token, nil
}
