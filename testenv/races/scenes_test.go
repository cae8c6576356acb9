package races

import (
	"context"
	"encoding/base64"
	"strings"

	"cmkd/daemon/keys"
	"cmkd/daemon/kms"
	"cmkd/daemon/store"
)

// scene is where operations meet.
type scene struct {
	name   string
	limits kms.Limits
	set    func(w *world)
	ops    func(w *world) []*op
}

// op is an operation, or a job.
type op struct {
	name string
	user bool // it is not an administrator's
	// second: of two operations, one after the other. It is not stopped.
	second bool
	run    func(w *world) (out map[string]any, code string)
}

// api is a call at home.
func api(name, operation string, in map[string]any) *op { return apiIn(home, name, operation, in) }

func apiIn(region, name, operation string, in map[string]any) *op {
	o := &op{name: operation + name}
	o.run = func(w *world) (map[string]any, string) {
		caller := w.caller
		if o.user {
			caller = w.user
		}
		out, code := w.callAs(caller, operation, region, in)
		if blob, ok := out["CiphertextBlob"].(string); ok && code == "" {
			raw, _ := base64.StdEncoding.DecodeString(blob)
			w.noting.Lock()
			w.blobs = append(w.blobs, raw)
			w.noting.Unlock()
		}
		return out, code
	}
	return o
}

// job is what the service does of its own accord.
func job(name string, f func(*kms.Service, context.Context) error) *op {
	return &op{name: name, run: func(w *world) (map[string]any, string) {
		if err := f(w.service, context.Background()); err != nil {
			return nil, "failed: " + err.Error()
		}
		return nil, ""
	}}
}

func jobs() []*op {
	counted := func(f func(*kms.Service, context.Context) (int, error)) func(*kms.Service, context.Context) error {
		return func(s *kms.Service, ctx context.Context) error {
			_, err := f(s, ctx)
			return err
		}
	}
	return []*op{
		job("Reconcile", (*kms.Service).Reconcile),
		job("RotateDue", counted((*kms.Service).RotateDue)),
		job("ExpireDue", counted((*kms.Service).ExpireDue)),
		job("DeleteDue", counted((*kms.Service).DeleteDue)),
		job("FlushUsage", (*kms.Service).FlushUsage),
		job("UpdateManaged", (*kms.Service).UpdateManaged),
	}
}

func (w *world) create(in map[string]any) string {
	return w.must("CreateKey", in)["KeyMetadata"].(map[string]any)["KeyId"].(string)
}

// seal makes a ciphertext that must go on decrypting.
func (w *world) seal(id string) {
	raw, err := base64.StdEncoding.DecodeString(w.must("Encrypt", map[string]any{"KeyId": id, "Plaintext": "cGxhaW4="})["CiphertextBlob"].(string))
	if err != nil {
		w.t.Fatal(err)
	}
	w.blobs = append(w.blobs, raw)
}

// editKey changes the key's row at home, and editVersion one of a version.
func (w *world) editKey(id string, f func(*store.Key)) {
	w.t.Helper()
	w.edit(func(tx *store.Tx) error {
		now, _ := tx.Key(home, id)
		row := *now
		f(&row)
		return tx.PutKey(&row)
	})
}

func (w *world) editVersion(id string, number int, f func(*store.Version)) {
	w.t.Helper()
	w.edit(func(tx *store.Tx) error {
		row := *tx.Versions(id)[number-1]
		f(&row)
		return tx.PutVersion(&row)
	})
}

// parameters returns an import token.
func (w *world) parameters(id string) string {
	return w.must("GetParametersForImport", map[string]any{
		"KeyId": id, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048",
	})["ImportToken"].(string)
}

// bring makes an import request.
func (w *world) bring(id, token, name string, more ...map[string]any) map[string]any {
	in := map[string]any{
		"KeyId": id, "ImportToken": token, "EncryptedKeyMaterial": wrapped(w.t, name), "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
	}
	for _, m := range more {
		for k, v := range m {
			in[k] = v
		}
	}
	return in
}

var scenes = []*scene{sceneKey(), sceneDeleting(), sceneEmpty(), sceneImported("pending"), sceneImported("expired"), sceneImported("current"), sceneRegions(), sceneRegionsDeleting(), sceneRegionsImport(), sceneQuota(), sceneStores(), sceneStoreKeys(), scenePolicy()}

const (
	user = "arn:aws:iam::" + account + ":user/"
	open = `{"Version":"2012-10-17","Statement":[{"Sid":"other","Effect":"Allow","Principal":{"AWS":"*"},"Action":"kms:*","Resource":"*"}]}`
)

// sceneKey: a key with an alias, a grant and a tag, due for rotation, and another.
func sceneKey() *scene {
	var key, other, grant string
	return &scene{name: "key", set: func(w *world) {
		key = w.create(map[string]any{"Tags": []any{map[string]any{"TagKey": "t", "TagValue": "1"}}})
		other = w.create(map[string]any{})
		w.must("CreateAlias", map[string]any{"AliasName": "alias/a", "TargetKeyId": key})
		w.must("CreateAlias", map[string]any{"AliasName": "alias/b", "TargetKeyId": other})
		grant = w.must("CreateGrant", map[string]any{
			"KeyId": key, "GranteePrincipal": user + "a", "RetiringPrincipal": "arn:aws:iam::" + account + ":root", "Operations": []string{"Encrypt"},
		})["GrantId"].(string)
		w.must("EnableKeyRotation", map[string]any{"KeyId": key, "RotationPeriodInDays": 90})
		w.seal(key)
		w.editKey(key, func(k *store.Key) { k.NextRotation = now })
	}, ops: func(*world) []*op {
		k := func(more map[string]any) map[string]any {
			in := map[string]any{"KeyId": key}
			for n, v := range more {
				in[n] = v
			}
			return in
		}
		newGrant := map[string]any{"Name": "n", "GranteePrincipal": user + "b", "Operations": []string{"Decrypt"}}
		return append(jobs(),
			api("", "EnableKey", k(nil)), api("", "DisableKey", k(nil)),
			api(" x", "UpdateKeyDescription", k(map[string]any{"Description": "x"})),
			api("", "TagResource", k(map[string]any{"Tags": []any{map[string]any{"TagKey": "u", "TagValue": "2"}}})),
			api("", "UntagResource", k(map[string]any{"TagKeys": []string{"t"}})),
			api("", "PutKeyPolicy", k(map[string]any{"Policy": open})),
			api("", "EnableKeyRotation", k(map[string]any{"RotationPeriodInDays": 200})), api("", "DisableKeyRotation", k(nil)),
			api("", "RotateKeyOnDemand", k(nil)),
			api("", "ScheduleKeyDeletion", k(map[string]any{"PendingWindowInDays": 7})), api("", "CancelKeyDeletion", k(nil)),
			api(" c", "CreateAlias", map[string]any{"AliasName": "alias/c", "TargetKeyId": key}),
			api(" c to other", "CreateAlias", map[string]any{"AliasName": "alias/c", "TargetKeyId": other}),
			api(" a to other", "UpdateAlias", map[string]any{"AliasName": "alias/a", "TargetKeyId": other}),
			api(" b to key", "UpdateAlias", map[string]any{"AliasName": "alias/b", "TargetKeyId": key}),
			api(" a", "DeleteAlias", map[string]any{"AliasName": "alias/a"}),
			api("", "CreateGrant", k(newGrant)),
			api("", "RevokeGrant", k(map[string]any{"GrantId": grant})), api("", "RetireGrant", k(map[string]any{"GrantId": grant})),
			api("", "Encrypt", k(map[string]any{"Plaintext": "cGxhaW4="})),
			api(" by alias", "Encrypt", map[string]any{"KeyId": "alias/a", "Plaintext": "cGxhaW4="}),
			api(" managed", "Encrypt", map[string]any{"KeyId": "alias/aws/managed", "Plaintext": "cGxhaW4="}),
			api("", "CreateKey", map[string]any{}),
		)
	}}
}

// sceneDeleting: a key whose waiting period is over.
func sceneDeleting() *scene {
	var key, other, grant string
	return &scene{name: "deleting", set: func(w *world) {
		key, other = w.create(map[string]any{}), w.create(map[string]any{})
		w.must("CreateAlias", map[string]any{"AliasName": "alias/a", "TargetKeyId": key})
		w.must("CreateAlias", map[string]any{"AliasName": "alias/b", "TargetKeyId": other})
		grant = w.must("CreateGrant", map[string]any{
			"KeyId": key, "GranteePrincipal": user + "a", "RetiringPrincipal": "arn:aws:iam::" + account + ":root", "Operations": []string{"Encrypt"},
		})["GrantId"].(string)
		w.seal(key)
		w.must("ScheduleKeyDeletion", map[string]any{"KeyId": key, "PendingWindowInDays": 7})
		w.editKey(key, func(k *store.Key) { k.Deletion = now })
	}, ops: func(*world) []*op {
		k := map[string]any{"KeyId": key}
		return append(jobs(),
			api("", "ScheduleKeyDeletion", k), api("", "CancelKeyDeletion", k), api("", "EnableKey", k),
			api("", "PutKeyPolicy", map[string]any{"KeyId": key, "Policy": open}),
			api(" c", "CreateAlias", map[string]any{"AliasName": "alias/c", "TargetKeyId": key}),
			api(" a to other", "UpdateAlias", map[string]any{"AliasName": "alias/a", "TargetKeyId": other}),
			api(" b to key", "UpdateAlias", map[string]any{"AliasName": "alias/b", "TargetKeyId": key}),
			api(" a", "DeleteAlias", map[string]any{"AliasName": "alias/a"}),
			api("", "RevokeGrant", map[string]any{"KeyId": key, "GrantId": grant}), api("", "RetireGrant", map[string]any{"KeyId": key, "GrantId": grant}),
			api("", "Encrypt", map[string]any{"KeyId": key, "Plaintext": "cGxhaW4="}),
		)
	}}
}

// sceneEmpty: a key that waits for its first material, and two import tokens.
func sceneEmpty() *scene {
	var key, one, two string
	return &scene{name: "empty", set: func(w *world) {
		key = w.create(map[string]any{"Origin": "EXTERNAL"})
		one, two = w.parameters(key), w.parameters(key)
	}, ops: func(w *world) []*op {
		k := map[string]any{"KeyId": key}
		return append(jobs(),
			api(" 1 X", "ImportKeyMaterial", w.bring(key, one, "X")), api(" 1 Y", "ImportKeyMaterial", w.bring(key, one, "Y")),
			api(" 2 X", "ImportKeyMaterial", w.bring(key, two, "X")), api(" 2 Y", "ImportKeyMaterial", w.bring(key, two, "Y")),
			api(" 2 Y new", "ImportKeyMaterial", w.bring(key, two, "Y", map[string]any{"ImportType": "NEW_KEY_MATERIAL"})),
			api("", "GetParametersForImport", map[string]any{"KeyId": key, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}),
			api("", "DeleteImportedKeyMaterial", k), api("", "RotateKeyOnDemand", k), api("", "EnableKey", k), api("", "DisableKey", k),
			api("", "ScheduleKeyDeletion", k), api("", "CancelKeyDeletion", k),
			api("", "Encrypt", map[string]any{"KeyId": key, "Plaintext": "cGxhaW4="}),
		)
	}}
}

// sceneImported: a key with an older material O, the current one X, which has
// encrypted, and perhaps Y, which waits for rotation; with "expired" the time of X is
// over.
func sceneImported(kind string) *scene {
	var key, one, two, x, o, y string
	return &scene{name: "imported " + kind, set: func(w *world) {
		key = w.create(map[string]any{"Origin": "EXTERNAL"})
		fresh := map[string]any{"ImportType": "NEW_KEY_MATERIAL"}
		o = w.must("ImportKeyMaterial", w.bring(key, w.parameters(key), "O"))["KeyMaterialId"].(string)
		w.seal(key)
		x = w.must("ImportKeyMaterial", w.bring(key, w.parameters(key), "X", fresh))["KeyMaterialId"].(string)
		w.must("RotateKeyOnDemand", map[string]any{"KeyId": key})
		w.seal(key)
		if kind != "current" {
			y = w.must("ImportKeyMaterial", w.bring(key, w.parameters(key), "Y", fresh))["KeyMaterialId"].(string)
		}
		one, two = w.parameters(key), w.parameters(key)
		if kind == "expired" {
			expire := func(model *keys.Expiration, to *store.Version) { *model, to.ValidTo = "KEY_MATERIAL_EXPIRES", now }
			w.editVersion(key, 2, func(v *store.Version) { expire(&v.ExpirationModel, v) })
			w.editKey(key, func(k *store.Key) { k.ExpirationModel, k.ValidTo = "KEY_MATERIAL_EXPIRES", now })
		}
	}, ops: func(w *world) []*op {
		k := map[string]any{"KeyId": key}
		fresh := map[string]any{"ImportType": "NEW_KEY_MATERIAL"}
		described := map[string]any{"KeyMaterialDescription": "again"}
		ops := append(jobs(),
			api(" 1 X", "ImportKeyMaterial", w.bring(key, one, "X", described)), api(" 2 X", "ImportKeyMaterial", w.bring(key, two, "X")),
			api(" 2 O", "ImportKeyMaterial", w.bring(key, two, "O")), api(" 1 Y", "ImportKeyMaterial", w.bring(key, one, "Y")),
			api(" 2 Y new", "ImportKeyMaterial", w.bring(key, two, "Y", fresh)),
			api(" 1 Z new", "ImportKeyMaterial", w.bring(key, one, "Z", fresh)), api(" 2 Z new", "ImportKeyMaterial", w.bring(key, two, "Z", fresh)),
			api(" 2 X expiring", "ImportKeyMaterial", w.bring(key, two, "X", map[string]any{"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": now.Add(day).Unix()})),
			api("", "GetParametersForImport", map[string]any{"KeyId": key, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}),
			api("", "DeleteImportedKeyMaterial", k),
			api(" X", "DeleteImportedKeyMaterial", map[string]any{"KeyId": key, "KeyMaterialId": x}),
			api(" O", "DeleteImportedKeyMaterial", map[string]any{"KeyId": key, "KeyMaterialId": o}),
			api("", "RotateKeyOnDemand", k), api("", "EnableKey", k), api("", "DisableKey", k),
			api("", "ScheduleKeyDeletion", k), api("", "CancelKeyDeletion", k),
			api("", "Encrypt", map[string]any{"KeyId": key, "Plaintext": "cGxhaW4="}),
		)
		if y != "" {
			ops = append(ops, api(" Y", "DeleteImportedKeyMaterial", map[string]any{"KeyId": key, "KeyMaterialId": y}))
		}
		return ops
	}}
}

// regional are the operations on a multi-Region key.
func regional(key string) []*op {
	k := map[string]any{"KeyId": key}
	return append(jobs(),
		api(" third", "ReplicateKey", map[string]any{"KeyId": key, "ReplicaRegion": third, "Description": "one"}),
		api(" third again", "ReplicateKey", map[string]any{"KeyId": key, "ReplicaRegion": third, "Description": "two"}),
		api(" abroad", "ReplicateKey", map[string]any{"KeyId": key, "ReplicaRegion": abroad}),
		api(" abroad", "UpdatePrimaryRegion", map[string]any{"KeyId": key, "PrimaryRegion": abroad}),
		apiIn(abroad, " home", "UpdatePrimaryRegion", map[string]any{"KeyId": key, "PrimaryRegion": home}),
		api("", "ScheduleKeyDeletion", k), apiIn(abroad, " abroad", "ScheduleKeyDeletion", k),
		api("", "CancelKeyDeletion", k), apiIn(abroad, " abroad", "CancelKeyDeletion", k),
		api("", "DisableKey", k), apiIn(abroad, " abroad", "DisableKey", k), api("", "EnableKey", k),
		api("", "EnableKeyRotation", map[string]any{"KeyId": key, "RotationPeriodInDays": 200}),
		apiIn(abroad, " abroad", "EnableKeyRotation", map[string]any{"KeyId": key, "RotationPeriodInDays": 300}),
		api("", "DisableKeyRotation", k), api("", "RotateKeyOnDemand", k),
		api("", "PutKeyPolicy", map[string]any{"KeyId": key, "Policy": open}),
		apiIn(abroad, " abroad", "CreateAlias", map[string]any{"AliasName": "alias/c", "TargetKeyId": key}),
		api("", "TagResource", map[string]any{"KeyId": key, "Tags": []any{map[string]any{"TagKey": "u", "TagValue": "2"}}}),
		api("", "UpdateKeyDescription", map[string]any{"KeyId": key, "Description": "x"}),
		api("", "Encrypt", map[string]any{"KeyId": key, "Plaintext": "cGxhaW4="}),
		apiIn(abroad, " abroad", "Encrypt", map[string]any{"KeyId": key, "Plaintext": "cGxhaW4="}),
	)
}

// sceneRegions: a multi-Region key, due for rotation, with one replica.
func sceneRegions() *scene {
	var key string
	return &scene{name: "Regions", set: func(w *world) {
		key = w.create(map[string]any{"MultiRegion": true})
		w.must("ReplicateKey", map[string]any{"KeyId": key, "ReplicaRegion": abroad})
		w.must("EnableKeyRotation", map[string]any{"KeyId": key, "RotationPeriodInDays": 90})
		w.seal(key)
		w.editKey(key, func(k *store.Key) { k.NextRotation = now })
	}, ops: func(*world) []*op { return regional(key) }}
}

// sceneRegionsDeleting: its primary waits for the replica, whose time is over.
func sceneRegionsDeleting() *scene {
	var key string
	return &scene{name: "Regions deleting", set: func(w *world) {
		key = w.create(map[string]any{"MultiRegion": true})
		w.must("ReplicateKey", map[string]any{"KeyId": key, "ReplicaRegion": abroad})
		w.seal(key)
		w.must("ScheduleKeyDeletion", map[string]any{"KeyId": key})
		if _, code := w.call("ScheduleKeyDeletion", abroad, map[string]any{"KeyId": key}); code != "" {
			w.t.Fatal(code)
		}
		w.edit(func(tx *store.Tx) error {
			replica, _ := tx.Key(abroad, key)
			row := *replica
			row.Deletion = now
			return tx.PutKey(&row)
		})
	}, ops: func(*world) []*op { return regional(key) }}
}

// sceneRegionsImport: a multi-Region key of imported material, with one replica.
func sceneRegionsImport() *scene {
	var key, one, two string
	return &scene{name: "Regions import", set: func(w *world) {
		key = w.create(map[string]any{"MultiRegion": true, "Origin": "EXTERNAL"})
		w.must("ImportKeyMaterial", w.bring(key, w.parameters(key), "X"))
		w.must("ReplicateKey", map[string]any{"KeyId": key, "ReplicaRegion": abroad})
		w.seal(key)
		one, two = w.parameters(key), w.parameters(key)
	}, ops: func(w *world) []*op {
		return append(regional(key),
			api(" 1 X", "ImportKeyMaterial", w.bring(key, one, "X")), api(" 2 X", "ImportKeyMaterial", w.bring(key, two, "X")),
			api(" 2 Y new", "ImportKeyMaterial", w.bring(key, two, "Y", map[string]any{"ImportType": "NEW_KEY_MATERIAL"})),
			api("", "DeleteImportedKeyMaterial", map[string]any{"KeyId": key}),
		)
	}}
}

// sceneQuota: room for one more key in each Region, one more alias and one more grant.
func sceneQuota() *scene {
	var key, other, multi string
	return &scene{name: "quota", limits: kms.Limits{Keys: 4, AliasesPerKey: 1, GrantsPerKey: 1}, set: func(w *world) {
		key, other, multi = w.create(map[string]any{}), w.create(map[string]any{}), w.create(map[string]any{"MultiRegion": true})
		w.must("CreateAlias", map[string]any{"AliasName": "alias/b", "TargetKeyId": other})
		for range 3 {
			if _, code := w.call("CreateKey", abroad, map[string]any{}); code != "" {
				w.t.Fatal(code)
			}
		}
	}, ops: func(*world) []*op {
		grant := func(name string) map[string]any {
			return map[string]any{"Name": name, "KeyId": key, "GranteePrincipal": user + "b", "Operations": []string{"Decrypt"}}
		}
		return []*op{
			api("", "CreateKey", map[string]any{"Description": "made"}), api(" external", "CreateKey", map[string]any{"Origin": "EXTERNAL"}),
			apiIn(abroad, " abroad", "CreateKey", map[string]any{}),
			api(" abroad", "ReplicateKey", map[string]any{"KeyId": multi, "ReplicaRegion": abroad}),
			api(" managed", "Encrypt", map[string]any{"KeyId": "alias/aws/managed", "Plaintext": "cGxhaW4="}),
			api(" c", "CreateAlias", map[string]any{"AliasName": "alias/c", "TargetKeyId": key}),
			api(" d", "CreateAlias", map[string]any{"AliasName": "alias/d", "TargetKeyId": key}),
			api(" b to key", "UpdateAlias", map[string]any{"AliasName": "alias/b", "TargetKeyId": key}),
			api(" c to multi", "UpdateAlias", map[string]any{"AliasName": "alias/c", "TargetKeyId": multi}),
			api(" b", "DeleteAlias", map[string]any{"AliasName": "alias/b"}),
			api(" 1", "CreateGrant", grant("1")), api(" 2", "CreateGrant", grant("2")),
		}
	}}
}

// sceneStores: a connected custom key store and one that is not, both without keys.
func sceneStores() *scene {
	var on, off string
	return &scene{name: "stores", set: func(w *world) {
		w.systemKeys("second", "third", "fourth")
		on, off = w.newStore("on", "cluster-22222222222"), w.newStore("off", "cluster-22222222223")
		w.must("ConnectCustomKeyStore", map[string]any{"CustomKeyStoreId": on})
	}, ops: func(*world) []*op {
		s := func(id string) map[string]any { return map[string]any{"CustomKeyStoreId": id} }
		leave := api("", "DisconnectCustomKeyStore", s(on))
		remove := api("", "DeleteCustomKeyStore", s(on))
		return append(jobs(),
			api("", "CreateKey", map[string]any{"CustomKeyStoreId": on, "Origin": "AWS_CLOUDHSM"}),
			api(" off", "CreateKey", map[string]any{"CustomKeyStoreId": off, "Origin": "AWS_CLOUDHSM"}),
			api(" on", "ConnectCustomKeyStore", s(on)), api(" off", "ConnectCustomKeyStore", s(off)),
			leave, api(" off", "DisconnectCustomKeyStore", s(off)),
			remove, api(" off", "DeleteCustomKeyStore", s(off)),
			&op{name: "Disconnect, then Delete", second: true, run: func(w *world) (map[string]any, string) {
				_, first := leave.run(w)
				out, second := remove.run(w)
				return out, first + second
			}},
			api(" off", "UpdateCustomKeyStore", map[string]any{"CustomKeyStoreId": off, "NewCustomKeyStoreName": "new"}),
			api(" on", "UpdateCustomKeyStore", map[string]any{"CustomKeyStoreId": on, "NewCustomKeyStoreName": "new"}),
			api(" new", "CreateCustomKeyStore", newStore("new", "cluster-22222222224")),
			api(" other", "CreateCustomKeyStore", newStore("other", "cluster-22222222224")),
		)
	}}
}

func newStore(name, cluster string) map[string]any {
	return map[string]any{"CustomKeyStoreName": name, "CloudHsmClusterId": cluster, "TrustAnchorCertificate": "cert", "KeyStorePassword": "password"}
}

func (w *world) newStore(name, cluster string) string {
	return w.must("CreateCustomKeyStore", newStore(name, cluster))["CustomKeyStoreId"].(string)
}

// scenePolicy: a user whose permissions hang on the key's policy, tags and aliases,
// beside what takes them away.
func scenePolicy() *scene {
	var key, other, grant string
	as := func(o *op) *op {
		o.name = "user's " + o.name
		o.user = true
		return o
	}
	statement := func(sid, action, more string) string {
		return `{"Sid":"` + sid + `","Effect":"Allow","Principal":{"AWS":"` + user + `a"},"Action":"` + action + `","Resource":"*"` + more + `}`
	}
	root := `{"Sid":"root","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"}`
	document := func(statements ...string) string {
		return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
	}
	return &scene{name: "policy", set: func(w *world) {
		key = w.create(map[string]any{
			"Policy": document(root, statement("all", "kms:*", `,"Condition":{"StringEquals":{"aws:ResourceTag/t":"1"}}`)),
			"Tags":   []any{map[string]any{"TagKey": "t", "TagValue": "1"}},
		})
		other = w.create(map[string]any{"Policy": document(root, statement("all", "kms:*", ""))})
		w.must("CreateAlias", map[string]any{"AliasName": "alias/a", "TargetKeyId": other})
		grant = w.must("CreateGrant", map[string]any{"KeyId": key, "GranteePrincipal": user + "a", "Operations": []string{"Encrypt"}})["GrantId"].(string)
	}, ops: func(*world) []*op {
		tag := func(value string) map[string]any {
			return map[string]any{"KeyId": key, "Tags": []any{map[string]any{"TagKey": "t", "TagValue": value}}}
		}
		put := func(text string) map[string]any {
			return map[string]any{"KeyId": key, "Policy": text, "BypassPolicyLockoutSafetyCheck": true}
		}
		return []*op{
			api(" nothing", "PutKeyPolicy", put(document(root))), as(api(" all", "PutKeyPolicy", put(document(root, statement("mine", "kms:*", ""))))),
			api(" 2", "TagResource", tag("2")), as(api(" 3", "TagResource", tag("3"))),
			as(api("", "UntagResource", map[string]any{"KeyId": key, "TagKeys": []string{"t"}})),
			as(api("", "UpdateKeyDescription", map[string]any{"KeyId": key, "Description": "mine"})),
			as(api("", "ScheduleKeyDeletion", map[string]any{"KeyId": key})), as(api("", "DisableKey", map[string]any{"KeyId": key})),
			as(api("", "RotateKeyOnDemand", map[string]any{"KeyId": key})),
			api(" a to key", "UpdateAlias", map[string]any{"AliasName": "alias/a", "TargetKeyId": key}),
			as(api(" a", "DeleteAlias", map[string]any{"AliasName": "alias/a"})),
			api("", "RevokeGrant", map[string]any{"KeyId": key, "GrantId": grant}),
			as(api("", "RevokeGrant", map[string]any{"KeyId": key, "GrantId": grant})),
			as(api("", "CreateGrant", map[string]any{"KeyId": key, "Name": "n", "GranteePrincipal": user + "b", "Operations": []string{"Decrypt"}})),
			as(api("", "Encrypt", map[string]any{"KeyId": key, "Plaintext": "cGxhaW4="})),
		}
	}}
}
