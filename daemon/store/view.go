package store

import (
	"iter"
	"slices"
)

// View is a snapshot of all rows: what was committed when it was taken, for
// as long as it is held. It needs no release. Its methods may be called
// concurrently; the rows that they return are shared and must not be changed.
// Sequences may be ranged over again; markers ("after") need not exist.
type View struct {
	keys            table[Key]
	versions        table[Version]
	aliases         table[Alias]
	grants          table[Grant]
	usages          table[Usage]
	intents         table[Intent]
	systemKeys      table[SystemKey]
	imports         table[ImportParameters]
	customKeyStores table[CustomKeyStore]
	settings        table[Setting]

	hashes   *hashes // over the rows of all tables
	sequence uint64  // of the head that it was committed with
}

// keyBytes is enough for most index keys, so that a look-up builds its key on
// the stack.
const keyBytes = 128

// Key returns the key as the Region sees it.
func (v *View) Key(region, id string) (*Key, bool) {
	var buf [keyBytes]byte
	return v.keys.rows.Get(appendKey(buf[:0], region, id))
}

// Keys yields the Region's keys in the order of their IDs, from the one behind
// after on.
func (v *View) Keys(region, after string) iter.Seq[*Key] {
	return scan(v.keys.rows, appendKey(nil, region), after)
}

// AllKeys yields the keys of all Regions, by Region and ID.
func (v *View) AllKeys() iter.Seq[*Key] { return scan(v.keys.rows, nil, "") }

// KeyReplicas returns the rows of a key ID in all Regions, by Region: one, or
// as many as a multi-Region key has replicas.
func (v *View) KeyReplicas(id string) []*Key {
	return slices.Collect(scan(v.keys.indexes[keysByID], appendKey(nil, id), ""))
}

// KeyCount returns the number of keys in the Region.
func (v *View) KeyCount(region string) int {
	n, _ := v.keys.counts.Get(appendKey(nil, region))
	return n
}

// Versions returns the key's versions in the order of their numbers.
func (v *View) Versions(keyID string) []*Version {
	return slices.Collect(scan(v.versions.rows, appendKey(nil, keyID), ""))
}

// AllVersions yields the versions of all keys, by key ID and number.
func (v *View) AllVersions() iter.Seq[*Version] { return scan(v.versions.rows, nil, "") }

// Version returns one version of a key by its KeyMaterialId.
func (v *View) Version(keyID, materialID string) (*Version, bool) {
	var buf [keyBytes]byte
	return v.versions.indexes[versionsByMaterial].Get(appendKey(buf[:0], materialID, keyID))
}

// VersionByMaterial returns the version with the KeyMaterialId, of whichever key.
func (v *View) VersionByMaterial(materialID string) (*Version, bool) {
	for version := range scan(v.versions.indexes[versionsByMaterial], appendKey(nil, materialID), "") {
		return version, true
	}
	return nil, false
}

// VersionByCKAID returns the version whose object in the token has the CKA_ID.
func (v *View) VersionByCKAID(id []byte) (*Version, bool) {
	return v.versions.indexes[versionsByCKAID].Get(id)
}

// CurrentVersion returns the version of the key whose State is CURRENT.
func (v *View) CurrentVersion(keyID string) (*Version, bool) {
	var buf [keyBytes]byte
	return v.versions.indexes[versionsCurrent].Get(appendKey(buf[:0], keyID))
}

// Alias returns the alias of that name, "alias/" included.
func (v *View) Alias(region, name string) (*Alias, bool) {
	var buf [keyBytes]byte
	return v.aliases.rows.Get(appendKey(buf[:0], region, name))
}

// Aliases yields the Region's aliases by name, from the one behind after on.
func (v *View) Aliases(region, after string) iter.Seq[*Alias] {
	return scan(v.aliases.rows, appendKey(nil, region), after)
}

// AliasesOf yields the aliases of a key by name, from the one behind after on.
func (v *View) AliasesOf(region, keyID, after string) iter.Seq[*Alias] {
	return scan(v.aliases.indexes[aliasesByKey], appendKey(nil, region, keyID), after)
}

// AliasCount returns the number of aliases in the Region.
func (v *View) AliasCount(region string) int {
	n, _ := v.aliases.counts.Get(appendKey(nil, region))
	return n
}

// Grant returns a grant of the key by its ID.
func (v *View) Grant(region, keyID, id string) (*Grant, bool) {
	return v.grants.rows.Get(appendKey(nil, region, keyID, id))
}

// GrantByID returns a grant of any key in the Region.
func (v *View) GrantByID(region, id string) (*Grant, bool) {
	return v.grants.indexes[grantsByID].Get(appendKey(nil, region, id))
}

// GrantsOf yields the grants of a key by grant ID, from the one behind after on.
func (v *View) GrantsOf(region, keyID, after string) iter.Seq[*Grant] {
	return scan(v.grants.rows, appendKey(nil, region, keyID), after)
}

// GrantCount returns the number of grants of a key.
func (v *View) GrantCount(region, keyID string) int {
	n, _ := v.grants.counts.Get(appendKey(nil, region, keyID))
	return n
}

// GrantsByGrantee yields the grants of a key to one principal by grant ID. Its
// cost depends on their number only, not on that of the key's grants.
func (v *View) GrantsByGrantee(region, keyID, grantee string) iter.Seq[*Grant] {
	return scan(v.grants.indexes[grantsByGrantee], appendKey(nil, region, keyID, grantee), "")
}

// GrantsByName yields the grants of a key that were given the name, by grant ID.
func (v *View) GrantsByName(region, keyID, name string) iter.Seq[*Grant] {
	return scan(v.grants.indexes[grantsByName], appendKey(nil, region, keyID, name), "")
}

// GrantsByRetiring yields the Region's grants that name the principal as the
// retiring one, by grant ID, from the one behind after on.
func (v *View) GrantsByRetiring(region, principal, after string) iter.Seq[*Grant] {
	return scan(v.grants.indexes[grantsByRetiring], appendKey(nil, region, principal), after)
}

// Usage returns the last use of a key.
func (v *View) Usage(region, keyID string) (*Usage, bool) {
	return v.usages.rows.Get(appendKey(nil, region, keyID))
}

// Intent returns the intent for the object with the CKA_ID.
func (v *View) Intent(id []byte) (*Intent, bool) { return v.intents.rows.Get(id) }

// Intents yields all intents.
func (v *View) Intents() iter.Seq[*Intent] { return scan(v.intents.rows, nil, "") }

// SystemKeys returns the token's keys of a purpose by version.
func (v *View) SystemKeys(token, purpose string) []*SystemKey {
	return slices.Collect(scan(v.systemKeys.rows, appendKey(nil, token, purpose), ""))
}

// AllSystemKeys yields the system keys of all tokens.
func (v *View) AllSystemKeys() iter.Seq[*SystemKey] { return scan(v.systemKeys.rows, nil, "") }

// CurrentSystemKey returns the system key with the highest version.
func (v *View) CurrentSystemKey(token, purpose string) (*SystemKey, bool) {
	keys := v.SystemKeys(token, purpose)
	if len(keys) == 0 {
		return nil, false
	}
	return keys[len(keys)-1], true
}

// SystemKey returns one version of a system key.
func (v *View) SystemKey(token, purpose string, version int) (*SystemKey, bool) {
	if version < 0 {
		return nil, false
	}
	return v.systemKeys.rows.Get(appendKey(nil, token, purpose, version))
}

// ImportParameters returns the import parameters by the SHA-256 of their
// import token.
func (v *View) ImportParameters(tokenHash []byte) (*ImportParameters, bool) {
	return v.imports.rows.Get(tokenHash)
}

// ImportParametersOf yields the import parameters that were given out for a key.
func (v *View) ImportParametersOf(region, keyID string) iter.Seq[*ImportParameters] {
	return scan(v.imports.indexes[importsByKey], appendKey(nil, region, keyID), "")
}

// AllImportParameters yields the import parameters of all keys.
func (v *View) AllImportParameters() iter.Seq[*ImportParameters] {
	return scan(v.imports.rows, nil, "")
}

// CustomKeyStore returns a custom key store by its ID.
func (v *View) CustomKeyStore(region, id string) (*CustomKeyStore, bool) {
	return v.customKeyStores.rows.Get(appendKey(nil, region, id))
}

// CustomKeyStoreByName returns a custom key store by its name.
func (v *View) CustomKeyStoreByName(region, name string) (*CustomKeyStore, bool) {
	return v.customKeyStores.indexes[customKeyStoresByName].Get(appendKey(nil, region, name))
}

// CustomKeyStoreByToken returns the first custom key store of the Region on
// the configured token.
func (v *View) CustomKeyStoreByToken(region, token string) (*CustomKeyStore, bool) {
	for c := range v.CustomKeyStores(region, "") {
		if c.Token == token {
			return c, true
		}
	}
	return nil, false
}

// CustomKeyStores yields the Region's custom key stores by ID, from the one
// behind after on.
func (v *View) CustomKeyStores(region, after string) iter.Seq[*CustomKeyStore] {
	return scan(v.customKeyStores.rows, appendKey(nil, region), after)
}

// Setting returns a setting by its name.
func (v *View) Setting(name string) (*Setting, bool) {
	return v.settings.rows.Get(appendKey(nil, name))
}

// Settings yields all settings by name.
func (v *View) Settings() iter.Seq[*Setting] { return scan(v.settings.rows, nil, "") }
