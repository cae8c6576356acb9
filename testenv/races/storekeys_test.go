package races

import (
	"context"

	"cmkd/daemon/journal"
	"cmkd/socket/kmsapi"
)

// sceneStoreKeys: a connected custom key store with a key, which encrypts meanwhile.
func sceneStoreKeys() *scene {
	var on, key, other string
	return &scene{name: "store's key", set: func(w *world) {
		w.systemKeys("second", "third", "fourth")
		on = w.newStore("on", "cluster-22222222222")
		w.must("ConnectCustomKeyStore", map[string]any{"CustomKeyStoreId": on})
		key = w.create(map[string]any{"CustomKeyStoreId": on, "Origin": "AWS_CLOUDHSM"})
		other = w.create(map[string]any{})
		w.seal(key)
	}, ops: func(w *world) []*op {
		s := map[string]any{"CustomKeyStoreId": on}
		k := map[string]any{"KeyId": key}
		return append(jobs(),
			api("", "ConnectCustomKeyStore", s), api("", "DisconnectCustomKeyStore", s), api("", "DeleteCustomKeyStore", s),
			api("", "UpdateCustomKeyStore", map[string]any{"CustomKeyStoreId": on, "NewCustomKeyStoreName": "new"}),
			api("", "Encrypt", map[string]any{"KeyId": key, "Plaintext": "cGxhaW4="}),
			api("", "Decrypt", map[string]any{"CiphertextBlob": w.ready[0]}),
			api(" to other", "ReEncrypt", map[string]any{"CiphertextBlob": w.ready[0], "DestinationKeyId": other}),
			api("", "DisableKey", k), api("", "EnableKey", k), api("", "ScheduleKeyDeletion", k), api("", "CancelKeyDeletion", k),
			api("", "UpdateKeyDescription", map[string]any{"KeyId": key, "Description": "x"}),
			api("", "CreateKey", map[string]any{"CustomKeyStoreId": on, "Origin": "AWS_CLOUDHSM"}),
			&op{name: "ConfirmClock", run: func(w *world) (map[string]any, string) {
				err := w.service.Operate(context.Background(), w.caller, &kmsapi.Request{Operation: "ConfirmClock", RequestID: "r"}, func(c *journal.Call) error {
					_, err := w.service.ConfirmClock(context.Background(), c)
					return err
				})
				if err != nil {
					return nil, "failed: " + err.Error()
				}
				return nil, ""
			}},
		)
	}}
}
