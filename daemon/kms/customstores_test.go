package kms_test

import (
	"testing"

	"cmkd/daemon/kms"
	"cmkd/socket/kmsapi"
	"cmkd/testenv/memory"
)

// TestCustomKeyStore leads a custom key store through its states: what each refuses
// and allows.
func TestCustomKeyStore(t *testing.T) {
	t.Parallel()
	const cluster, other = "cluster-22222222222", "cluster-22222222223"
	s := newInMemoryWith(t, func(cfg *kms.Config) {
		cfg.Clusters = map[string]string{cluster: "second", other: "third", "cluster-22222222224": "main"}
		cfg.Router = ownKeys{cfg.Router.(*memory.Router)}
	})
	create := func(name, cluster string) map[string]any {
		return map[string]any{"CustomKeyStoreName": name, "CloudHsmClusterId": cluster, "TrustAnchorCertificate": "x", "KeyStorePassword": "password"}
	}
	s.call(kmsapi.CodeCloudHsmClusterNotFoundException, "CreateCustomKeyStore", create("a", "cluster-22222222225"))
	s.call(kmsapi.CodeCloudHsmClusterNotFoundException, "CreateCustomKeyStore", create("a", "cluster-22222222224"))
	s.call(kmsapi.CodeValidationException, "CreateCustomKeyStore", map[string]any{"CustomKeyStoreName": "a", "CloudHsmClusterId": cluster})
	s.call(kmsapi.CodeUnsupportedOperationException, "CreateCustomKeyStore", map[string]any{"CustomKeyStoreName": "a", "CustomKeyStoreType": "EXTERNAL_KEY_STORE"})
	s.token.SetAway(true)
	s.call(kmsapi.CodeCloudHsmClusterNotActiveException, "CreateCustomKeyStore", create("a", cluster))
	s.token.SetAway(false)
	id, _ := s.call("", "CreateCustomKeyStore", create("a", cluster))["CustomKeyStoreId"].(string)
	of := func(more ...any) map[string]any {
		in := map[string]any{"CustomKeyStoreId": id}
		for i := 0; i < len(more); i += 2 {
			in[more[i].(string)] = more[i+1]
		}
		return in
	}
	s.call(kmsapi.CodeCustomKeyStoreNameInUseException, "CreateCustomKeyStore", create("a", other))
	s.call(kmsapi.CodeCloudHsmClusterInUseException, "CreateCustomKeyStore", create("b", cluster))
	key := map[string]any{"CustomKeyStoreId": id, "Origin": "AWS_CLOUDHSM"}
	s.call(kmsapi.CodeCustomKeyStoreInvalidStateException, "CreateKey", key)
	s.call(kmsapi.CodeCustomKeyStoreInvalidStateException, "DisconnectCustomKeyStore", of())
	s.call("", "UpdateCustomKeyStore", of("NewCustomKeyStoreName", "b"))
	s.call(kmsapi.CodeCloudHsmClusterNotRelatedException, "UpdateCustomKeyStore", of("CloudHsmClusterId", other))
	s.call(kmsapi.CodeUnsupportedOperationException, "UpdateCustomKeyStore", of("XksProxyUriPath", "/kms/xks/v1"))
	s.token.SetAway(true)
	s.call(kmsapi.CodeCloudHsmClusterNotActiveException, "ConnectCustomKeyStore", of())
	s.token.SetAway(false)
	s.call("", "ConnectCustomKeyStore", of())
	s.call("", "ConnectCustomKeyStore", of()) // again changes nothing
	s.call("", "UpdateCustomKeyStore", of("NewCustomKeyStoreName", "c"))
	s.call(kmsapi.CodeCustomKeyStoreInvalidStateException, "UpdateCustomKeyStore", of("KeyStorePassword", "password"))
	s.call(kmsapi.CodeCustomKeyStoreInvalidStateException, "DeleteCustomKeyStore", of())
	stores, _ := s.call("", "DescribeCustomKeyStores", map[string]any{"CustomKeyStoreName": "c"})["CustomKeyStores"].([]any)
	if len(stores) != 1 || stores[0].(map[string]any)["ConnectionState"] != "CONNECTED" {
		t.Errorf("described: %v", stores)
	}
	s.call(kmsapi.CodeCustomKeyStoreNotFoundException, "DescribeCustomKeyStores", map[string]any{"CustomKeyStoreName": "a"})
	s.call(kmsapi.CodeValidationException, "DescribeCustomKeyStores", of("CustomKeyStoreName", "c"))

	keyID := s.newKey(key)
	blob := s.call("", "Encrypt", map[string]any{"KeyId": keyID, "Plaintext": "eA=="})["CiphertextBlob"]
	s.call(kmsapi.CodeCustomKeyStoreHasCMKsException, "DeleteCustomKeyStore", of())
	s.call("", "DisconnectCustomKeyStore", of())
	s.call(kmsapi.CodeKMSInvalidStateException, "Decrypt", map[string]any{"CiphertextBlob": blob})
	s.call("", "ConnectCustomKeyStore", of())
	s.call("", "Decrypt", map[string]any{"CiphertextBlob": blob})
	s.call("", "DisconnectCustomKeyStore", of())
	s.call(kmsapi.CodeCustomKeyStoreHasCMKsException, "DeleteCustomKeyStore", of())
	for _, operation := range []string{"ConnectCustomKeyStore", "DisconnectCustomKeyStore", "UpdateCustomKeyStore", "DeleteCustomKeyStore"} {
		s.call(kmsapi.CodeCustomKeyStoreNotFoundException, operation, map[string]any{"CustomKeyStoreId": "cks-00000000000000000"})
	}
	empty, _ := s.call("", "CreateCustomKeyStore", create("empty", other))["CustomKeyStoreId"].(string)
	s.call("", "DeleteCustomKeyStore", map[string]any{"CustomKeyStoreId": empty})
}
