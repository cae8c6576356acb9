package rig

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv"
)

// Cluster is the cluster_id of the tests' further token.
const Cluster = "cluster-a2b3c4d5e6f"

// FurtherToken is the table of the configuration for a further token.
func FurtherToken(name, cluster string, tok *testenv.Token, module string, env []string) string {
	values := map[string]string{}
	for _, e := range slices.Concat(tok.Env, env) {
		k, v, _ := strings.Cut(e, "=")
		values[k] = v
	}
	return fmt.Sprintf("[[token]]\nname = %q\ncluster_id = %q\nmodule = %q\nlabel = %q\npin_file = %q\n%s",
		name, cluster, module, tok.Label, tok.PINFile, environment(values, cmp.Or(tok.Sandbox, sandboxOf(values))))
}

// SigningToken is [FurtherToken] for a custom key store that holds signing keys, too.
func SigningToken(name, cluster string, tok *testenv.Token) string {
	return strings.Replace(FurtherToken(name, cluster, tok, tok.Module, nil), "[[token]]\n", "[[token]]\nsigning_keys = true\n", 1)
}

// NewKeyStore makes a custom key store and connects it.
func NewKeyStore(t *testing.T, c *kms.Client) string {
	t.Helper()
	made, err := c.CreateCustomKeyStore(t.Context(), KeyStoreInput("second", Cluster))
	if err != nil {
		t.Fatalf("CreateCustomKeyStore: %v", err)
	}
	if _, err := c.ConnectCustomKeyStore(t.Context(), &kms.ConnectCustomKeyStoreInput{CustomKeyStoreId: made.CustomKeyStoreId}); err != nil {
		t.Fatalf("ConnectCustomKeyStore: %v", err)
	}
	if got := Connection(t, c, *made.CustomKeyStoreId); got != "CONNECTED" {
		t.Fatalf("the store is %s", got)
	}
	return *made.CustomKeyStoreId
}

// KeyStoreInput is a request for a custom key store in a further token.
func KeyStoreInput(name, cluster string) *kms.CreateCustomKeyStoreInput {
	return &kms.CreateCustomKeyStoreInput{
		CustomKeyStoreName: &name, CloudHsmClusterId: &cluster,
		TrustAnchorCertificate: aws.String("-----BEGIN CERTIFICATE-----"), KeyStorePassword: aws.String("kmsPswd1"),
	}
}

// Connection is ConnectionState of a store.
func Connection(t *testing.T, c *kms.Client, id string) string {
	t.Helper()
	out, err := c.DescribeCustomKeyStores(t.Context(), &kms.DescribeCustomKeyStoresInput{CustomKeyStoreId: &id})
	if err != nil {
		return Code(err)
	}
	return string(out.CustomKeyStores[0].ConnectionState)
}
