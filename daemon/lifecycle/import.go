package lifecycle

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"cmkd/backends"
	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// importTime is how long an import waits for the token.
const importTime = time.Minute

// importTarget says which version imported material is for.
type importTarget struct {
	// version is the likely one, under a fresh CKA_ID.
	version *store.Version
	// others it may be as well: only the check value of what has come into the
	// token tells.
	others []*store.Version
}

// among finds the other version of which the check value is.
func (t *importTarget) among(checkValue []byte) (*store.Version, bool) {
	if bytes.Equal(t.version.CheckValue, checkValue) {
		return nil, false
	}
	i := slices.IndexFunc(t.others, func(v *store.Version) bool { return bytes.Equal(v.CheckValue, checkValue) })
	if i < 0 {
		return nil, false
	}
	return t.others[i], true
}

// importTarget finds the version that the material is for: a new one, the one
// that the client names, or any that was associated with the key before.
func (s *Lifecycle) importTarget(k *access.Key, in *kmsapi.ImportKeyMaterialRequest) (*importTarget, error) {
	versions := s.Associated(k.View.Versions(k.ID))
	kind := in.ImportType
	if kind == "" && len(versions) > 0 {
		kind = kmsapi.ImportTypeExistingKeyMaterial
	}
	if kind != kmsapi.ImportTypeExistingKeyMaterial {
		return s.newImport(k, in)
	}
	if len(versions) == 0 {
		return nil, kmsapi.Errorf(kmsapi.CodeKMSInvalidStateException, "%s has no existing key material.", k.ARN)
	}
	if in.KeyMaterialId != "" {
		old, ok := s.Material(k.View, k.ID, in.KeyMaterialId)
		if !ok {
			return nil, ErrNoMaterial(in.KeyMaterialId)
		}
		return &importTarget{version: again(old)}, nil
	}
	// Most likely it is one that is not there, or else the current one.
	likely := slices.IndexFunc(versions, func(v *store.Version) bool { return s.ImportState(v) == kmsapi.ImportStatePendingImport })
	if likely < 0 {
		likely = slices.IndexFunc(versions, func(v *store.Version) bool { return v.State == kmsapi.KeyMaterialStateCurrent })
	}
	return &importTarget{version: again(versions[max(likely, 0)]), others: versions}, nil
}

// again is the version for another object of the same material.
func again(old *store.Version) *store.Version {
	v := *old
	v.CKAID = keyring.NextCKAID(old.CKAID)
	return &v
}

func ErrNoMaterial(id string) error {
	return kmsapi.Errorf(kmsapi.CodeNotFoundException, "Key material '%s' does not exist", id)
}

// newImport is the target of material that is new to the key, if it is not one
// that was discarded.
func (s *Lifecycle) newImport(k *access.Key, in *kmsapi.ImportKeyMaterialRequest) (*importTarget, error) {
	if in.KeyMaterialId != "" {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "KeyMaterialId cannot be specified when importing new key material")
	}
	rows := k.View.Versions(k.ID)
	number := 1
	if len(rows) > 0 {
		number = rows[len(rows)-1].Number + 1
	}
	t := &importTarget{version: keyring.NewVersion(k.ID, number, s.Now())}
	t.version.Imported = true
	if len(s.Associated(rows)) > 0 {
		t.version.State = kmsapi.KeyMaterialStatePendingRotation
	}
	for _, v := range rows {
		if v.State != kmsapi.KeyMaterialStateCurrent && v.State != kmsapi.KeyMaterialStateNonCurrent {
			t.others = append(t.others, v)
		}
	}
	return t, s.checkPending(k.View, k, t.version)
}

// checkPending refuses a second material that waits for rotation.
func (s *Lifecycle) checkPending(view journal.Reader, k *access.Key, v *store.Version) error {
	old := s.PendingRotation(view, k.ID)
	if old == nil || old.MaterialID == v.MaterialID || v.State != kmsapi.KeyMaterialStatePendingRotation {
		return nil
	}
	return kmsapi.Errorf(kmsapi.CodeKMSInvalidStateException,
		"New key material (id: %s) cannot be imported into KMS key %s, because another key material (id: %s) is pending rotation.",
		v.MaterialID, k.ARN, old.MaterialID)
}

// imported is material on its way into the token.
type imported struct {
	key    *access.Key
	params *store.ImportParameters
	in     *kmsapi.ImportKeyMaterialRequest
	model  kmsapi.ExpirationModelType
}

// Import imports the material of the request into the admitted key, and returns the
// version that it is. model is the request's, or what it means if the request has none.
func (s *Lifecycle) Import(ctx context.Context, c *journal.Call, k *access.Key, in *kmsapi.ImportKeyMaterialRequest, model kmsapi.ExpirationModelType) (*store.Version, error) {
	params, err := s.importParameters(k, in.ImportToken)
	if err != nil {
		return nil, err
	}
	target, err := s.importTarget(k, in)
	if err != nil {
		return nil, err
	}
	return s.importMaterial(ctx, c, &imported{key: k, params: params, in: in, model: model}, target)
}

// importMaterial imports the material for the target, or for the other version
// that it turns out to be.
func (s *Lifecycle) importMaterial(ctx context.Context, c *journal.Call, m *imported, target *importTarget) (*store.Version, error) {
	v, other, err := s.importVersion(ctx, c, m, target)
	if err != nil || other == nil {
		return v, err
	}
	// The label and a part of CKA_ID are of the version, so it has to come in again.
	right := again(other)
	if len(s.Associated([]*store.Version{other})) == 0 { // it is new to the key once more
		right.State = target.version.State
	}
	v, _, err = s.importVersion(ctx, c, m, &importTarget{version: right})
	return v, err
}

// importVersion brings the material into the token under the CKA_ID of the
// target and makes it the target's. The wrapping pair has served then and is
// destroyed; if the material is refused, the client may try again with it. If it
// is another version's, it tells which, and nothing has changed. As in generate, a
// caller who leaves does not stop the token.
func (s *Lifecycle) importVersion(ctx context.Context, c *journal.Call, m *imported, target *importTarget) (v, other *store.Version, err error) {
	k, v := m.key, target.version
	intent := &store.Intent{
		CKAID: v.CKAID, Action: "create", Region: k.Region, KeyID: k.ID, Version: v.Number, Token: k.Token,
		Spec: k.Spec, Usage: k.Usage, Imported: true, Created: s.Now(),
	}
	if err := s.Start(ctx, intent); err != nil {
		return nil, nil, err
	}
	c.Creates()
	losses := s.Losses(intent)
	made, late, err := keyring.InTime(ctx, importTime, func(ctx context.Context) (*backends.ImportKeyAnswer, error) {
		return k.Backend.ImportKey(ctx, &backends.ImportKeyRequest{
			Key: keyring.IntentKey(intent), Label: keyring.Label(k.ID, v.Number),
			Wrapping:  backends.Key{ID: keyring.ObjectID(m.params.CKAID), Spec: m.params.Spec, Usage: backends.UnwrapImport},
			Algorithm: m.params.Algorithm, Material: m.in.EncryptedKeyMaterial, TokenOnly: s.TokenOnlyImport,
		})
	}, func() { s.Abandon(ctx, k.Backend, intent) })
	if late {
		return nil, nil, err
	}
	defer s.Working.End(intent.CKAID)
	if err = s.Answered(intent, losses, made != nil && made.Unsure, err); err != nil {
		s.Undo(ctx, k.Backend, intent)
		return nil, nil, err
	}
	if made.ThroughPlugin {
		c.Record.AdditionalEventData.Details = jsontext.Value(`{"materialThroughPlugin":true}`)
	}
	if other, ok := target.among(made.CheckValue); ok {
		s.Undo(ctx, k.Backend, intent)
		return nil, other, nil
	}
	spent := &keyring.Cleanup{Ring: s.Keyring}
	defer spent.Done()
	err = s.Commit(ctx, c, func(tx *store.Tx) error {
		if err := s.adopt(tx, m, v, made, spent); err != nil {
			return err
		}
		c.Respond(journal.KeyElements{KeyID: k.ARN, KeyMaterialID: v.MaterialID})
		return s.EndsIntent(tx, intent)
	})
	if err != nil {
		s.Regained(ctx, intent, err)
		s.Undo(ctx, k.Backend, intent)
		return nil, nil, err
	}
	spent.Run(ctx, k.Backend)
	return v, nil, nil
}

// adopt stores the version that was just imported, and leaves what has served to
// spent: the wrapping pair, and the object that v replaces if there is one. The key
// is as it was when v was chosen, see [Journal.Commit].
func (s *Lifecycle) adopt(tx *store.Tx, m *imported, v *store.Version, made *backends.ImportKeyAnswer, spent *keyring.Cleanup) error {
	k := m.key
	if !tx.DeleteImportParameters(m.params.TokenHash) {
		return journal.ErrOutdated // expired at the same time
	}
	row, err := s.importedRow(tx, k, v, made.CheckValue)
	if err != nil {
		return err
	}
	if err := spent.Add(tx, s.PairIntent(k.Key, m.params)); err != nil {
		return err
	}
	if old, ok := tx.Version(k.ID, v.MaterialID); ok && old.ImportState == kmsapi.ImportStateImported {
		if err := spent.Add(tx, s.DestroyIntent(k.Key, old)); err != nil {
			return err
		}
	}
	waited := !s.HasMaterial(tx, k.ID)
	row.ImportState, row.ExpirationModel, row.ValidTo = kmsapi.ImportStateImported, m.model, m.in.ValidTo
	if m.in.KeyMaterialDescription != "" {
		row.Description = m.in.KeyMaterialDescription
	}
	if err := tx.PutVersion(row); err != nil {
		return err
	}
	return s.reflectReplicas(tx, k.ID, made.PublicKey, waited)
}

// importedRow is the row of v with the new object, if the material with this check
// value may be v's: another version's is not, nor another than v's was. Of a version
// that is there already the rest stays, such as the count of its encryptions.
func (s *Lifecycle) importedRow(tx *store.Tx, k *access.Key, v *store.Version, checkValue []byte) (*store.Version, error) {
	row := *v
	for _, old := range tx.Versions(k.ID) {
		same, mine := bytes.Equal(old.CheckValue, checkValue), old.MaterialID == v.MaterialID
		if same != mine {
			return nil, &kmsapi.Error{Code: kmsapi.CodeIncorrectKeyMaterialException}
		}
		if mine {
			row = *old
			row.CKAID, row.State = v.CKAID, v.State // the state is another if it was discarded
			row.Encryptions = max(old.Encryptions, s.Counters.Used(old))
		}
	}
	row.CheckValue = checkValue
	return &row, s.checkPending(tx, k, &row)
}

// reflectReplicas is reflectImport for the key in every Region: they share the
// material. publicKey is the pair's that was imported, if it is one. waited: before
// the import the key was pending import, if only because time had passed.
func (s *Lifecycle) reflectReplicas(tx *store.Tx, id string, publicKey []byte, waited bool) error {
	for _, replica := range tx.KeyReplicas(id) {
		row := *replica
		if len(publicKey) > 0 {
			row.PublicKey = publicKey
		}
		s.ReflectImport(tx, &row, waited)
		if err := tx.PutKey(&row); err != nil {
			return err
		}
	}
	return nil
}

// ReflectImport sets what the key's row says of its imported material: a key
// that lacks any of its materials is pending import.
func (s *Lifecycle) ReflectImport(tx *store.Tx, row *store.Key, waited bool) {
	row.ExpirationModel, row.ValidTo = "", time.Time{}
	if v, ok := tx.CurrentVersion(row.ID); ok && v.ImportState == kmsapi.ImportStateImported {
		row.ExpirationModel, row.ValidTo = v.ExpirationModel, v.ValidTo
	}
	complete := s.HasMaterial(tx, row.ID)
	switch {
	case complete && (row.State == kmsapi.KeyStatePendingImport || waited && row.State == kmsapi.KeyStateDisabled):
		row.State = kmsapi.KeyStateEnabled
	case !complete && (row.State == kmsapi.KeyStateEnabled || row.State == kmsapi.KeyStateDisabled):
		row.State = kmsapi.KeyStatePendingImport
	}
}
