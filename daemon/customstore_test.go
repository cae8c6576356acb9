package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv"
	"cmkd/testenv/rig"
	"cmkd/testenv/shim"
)

const cluster = "cluster-a2b3c4d5e6f"

// furtherToken is the table of the configuration for a further token.
func furtherToken(name, cluster string, tok *testenv.Token, module string, env []string) string {
	values := map[string]string{}
	for _, e := range append([]string{"SOFTHSM2_CONF=" + tok.ConfFile}, env...) {
		k, v, _ := strings.Cut(e, "=")
		values[k] = v
	}
	return fmt.Sprintf("[[token]]\nname = %q\ncluster_id = %q\nmodule = %q\nlabel = %q\npin_file = %q\n%s",
		name, cluster, module, tok.Label, tok.PINFile, rig.Environment(values))
}

// newStore makes a custom key store and connects it.
func newStore(t *testing.T, c *kms.Client) string {
	t.Helper()
	made, err := c.CreateCustomKeyStore(t.Context(), storeInput("second", cluster))
	if err != nil {
		t.Fatalf("CreateCustomKeyStore: %v", err)
	}
	if _, err := c.ConnectCustomKeyStore(t.Context(), &kms.ConnectCustomKeyStoreInput{CustomKeyStoreId: made.CustomKeyStoreId}); err != nil {
		t.Fatalf("ConnectCustomKeyStore: %v", err)
	}
	if got := connection(t, c, *made.CustomKeyStoreId); got != "CONNECTED" {
		t.Fatalf("the store is %s", got)
	}
	return *made.CustomKeyStoreId
}

func storeInput(name, cluster string) *kms.CreateCustomKeyStoreInput {
	return &kms.CreateCustomKeyStoreInput{
		CustomKeyStoreName: &name, CloudHsmClusterId: &cluster,
		TrustAnchorCertificate: aws.String("-----BEGIN CERTIFICATE-----"), KeyStorePassword: aws.String("kmsPswd1"),
	}
}

// connection is ConnectionState of a store.
func connection(t *testing.T, c *kms.Client, id string) string {
	t.Helper()
	out, err := c.DescribeCustomKeyStores(t.Context(), &kms.DescribeCustomKeyStoresInput{CustomKeyStoreId: &id})
	if err != nil {
		return code(err)
	}
	return string(out.CustomKeyStores[0].ConnectionState)
}

// TestCustomKeyStoreStranger: who may not create keys does not learn from CreateKey
// which stores there are, nor their states.
func TestCustomKeyStoreStranger(t *testing.T) {
	t.Parallel()
	tok := testenv.NewTokenLabelled(t, "second")
	r := rig.New(t, rig.Config{World: true, Tables: furtherToken("second", cluster, tok, tok.Module, nil)})
	made, err := r.Client("").CreateCustomKeyStore(t.Context(), storeInput("second", cluster)) // and it is disconnected
	if err != nil {
		t.Fatal(err)
	}
	stranger := r.As(t, rig.User{UID: 60961, GID: 60961})
	for what, id := range map[string]*string{"a store": made.CustomKeyStoreId, "no store": aws.String("cks-0123456789abcdef0")} {
		_, err := stranger.CreateKey(t.Context(), &kms.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: id})
		if code(err) != "AccessDeniedException" {
			t.Errorf("CreateKey in %s: %v", what, err)
		}
	}
}

// TestCustomKeyStore takes a store through its life, with the errors on the way.
func TestCustomKeyStore(t *testing.T) {
	t.Parallel()
	tok := testenv.NewTokenLabelled(t, "second")
	third := testenv.NewTokenLabelled(t, "third")
	r := rig.New(t, rig.Config{PlaintextDataKeys: true, Tables: furtherToken("second", cluster, tok, tok.Module, nil) +
		furtherToken("third", "cluster-third234567", third, third.Module, nil)})
	c, ctx := r.Client(""), t.Context()
	try := func(what, want string, err error) {
		t.Helper()
		if code(err) != want {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	create := func(in *kms.CreateCustomKeyStoreInput) error {
		_, err := c.CreateCustomKeyStore(ctx, in)
		return err
	}
	try("a cluster that is not there", "CloudHsmClusterNotFoundException", create(storeInput("s", "cluster-zzzzzzzzzzz")))
	partial := storeInput("s", cluster)
	partial.TrustAnchorCertificate = nil
	try("no certificate", "ValidationException", create(partial))
	try("an external key store", "UnsupportedOperationException", create(&kms.CreateCustomKeyStoreInput{
		CustomKeyStoreName: aws.String("x"), CustomKeyStoreType: types.CustomKeyStoreTypeExternalKeyStore,
		XksProxyUriEndpoint: aws.String("https://xks.example.com"), XksProxyUriPath: aws.String("/kms/xks/v1"),
		XksProxyConnectivity: types.XksProxyConnectivityTypePublicEndpoint,
		XksProxyAuthenticationCredential: &types.XksProxyAuthenticationCredentialType{
			AccessKeyId: aws.String("ABCDEFGHIJKLMNOPQRST2345"), RawSecretAccessKey: aws.String(strings.Repeat("a", 43)),
		},
	}))
	made, err := c.CreateCustomKeyStore(ctx, storeInput("second", cluster))
	if err != nil {
		t.Fatal(err)
	}
	id := made.CustomKeyStoreId
	if got := connection(t, c, *id); got != "DISCONNECTED" {
		t.Errorf("a new store is %s", got)
	}
	try("the cluster again", "CloudHsmClusterInUseException", create(storeInput("other", cluster)))
	try("the name again", "CustomKeyStoreNameInUseException", create(storeInput("second", "cluster-third234567")))
	newKeyIn := func() error {
		_, err := c.CreateKey(ctx, &kms.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: id})
		return err
	}
	try("CreateKey in a store that is disconnected", "CustomKeyStoreInvalidStateException", newKeyIn())
	connect := func() error {
		_, err := c.ConnectCustomKeyStore(ctx, &kms.ConnectCustomKeyStoreInput{CustomKeyStoreId: id})
		return err
	}
	try("ConnectCustomKeyStore", "", connect())
	try("connecting it again", "", connect())
	if got := connection(t, c, *id); got != "CONNECTED" {
		t.Errorf("a store that was connected twice is %s", got)
	}
	for what, u := range map[string]struct {
		in   *kms.UpdateCustomKeyStoreInput
		want string
	}{
		"its name":                  {&kms.UpdateCustomKeyStoreInput{NewCustomKeyStoreName: aws.String("n")}, ""},
		"its cluster":               {&kms.UpdateCustomKeyStoreInput{CloudHsmClusterId: aws.String(cluster)}, "CustomKeyStoreInvalidStateException"},
		"its password":              {&kms.UpdateCustomKeyStoreInput{KeyStorePassword: aws.String("kmsPswd2")}, "CustomKeyStoreInvalidStateException"},
		"its name and its password": {&kms.UpdateCustomKeyStoreInput{NewCustomKeyStoreName: aws.String("m"), KeyStorePassword: aws.String("kmsPswd2")}, "CustomKeyStoreInvalidStateException"},
	} {
		u.in.CustomKeyStoreId = id
		try("changing "+what+" while connected", u.want, second(c.UpdateCustomKeyStore(ctx, u.in)))
	}
	if list, err := c.DescribeCustomKeyStores(ctx, &kms.DescribeCustomKeyStoresInput{CustomKeyStoreName: aws.String("n")}); err != nil || len(list.CustomKeyStores) != 1 {
		t.Errorf("a store that was renamed while connected: %+v, %v", list, err)
	}
	_, err = c.DeleteCustomKeyStore(ctx, &kms.DeleteCustomKeyStoreInput{CustomKeyStoreId: id})
	try("deleting it while connected", "CustomKeyStoreInvalidStateException", err)

	for what, in := range map[string]*kms.CreateKeyInput{
		"an asymmetric key":          {Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: id, KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeSignVerify},
		"a multi-Region key":         {Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: id, MultiRegion: aws.Bool(true)},
		"a key of an external store": {Origin: types.OriginTypeExternalKeyStore, CustomKeyStoreId: id, XksKeyId: aws.String("k")},
	} {
		_, err := c.CreateKey(ctx, in)
		try(what, "UnsupportedOperationException", err)
	}
	key := newKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: id})
	meta, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &key})
	if err != nil || meta.KeyMetadata.Origin != types.OriginTypeAwsCloudhsm || aws.ToString(meta.KeyMetadata.CustomKeyStoreId) != *id ||
		aws.ToString(meta.KeyMetadata.CloudHsmClusterId) != cluster {
		t.Errorf("DescribeKey: %+v, %v", meta.KeyMetadata, err)
	}
	if out := tok.Run(t, "pkcs11-tool", "--module", tok.Module, "--token-label", tok.Label, "--login", "--pin", tok.PIN, "--list-objects"); !strings.Contains(string(out), key) {
		t.Error("the key is not in the store's token")
	}
	if got := objects(t, r, key); len(got) != 0 {
		t.Errorf("the first token has %v", got)
	}
	secret := seal(t, c, key, "secret")
	data, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: types.DataKeySpecAes256})
	try("GenerateDataKey", "", err)
	for what, err := range map[string]error{
		"GenerateDataKeyPair": second(c.GenerateDataKeyPair(ctx, &kms.GenerateDataKeyPairInput{KeyId: &key, KeyPairSpec: "ECC_NIST_P256"})),
		"GenerateDataKeyPairWithoutPlaintext": second(c.GenerateDataKeyPairWithoutPlaintext(ctx, &kms.GenerateDataKeyPairWithoutPlaintextInput{
			KeyId: &key, KeyPairSpec: "ECC_NIST_P256",
		})),
		"EnableKeyRotation":      second(c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &key})),
		"RotateKeyOnDemand":      second(c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &key})),
		"GetParametersForImport": second(c.GetParametersForImport(ctx, &kms.GetParametersForImportInput{KeyId: &key, WrappingAlgorithm: "RSAES_OAEP_SHA_256", WrappingKeySpec: "RSA_2048"})),
	} {
		try(what, "UnsupportedOperationException", err)
	}
	disconnect := func() {
		t.Helper()
		_, err := c.DisconnectCustomKeyStore(ctx, &kms.DisconnectCustomKeyStoreInput{CustomKeyStoreId: id})
		try("DisconnectCustomKeyStore", "", err)
	}
	disconnect()
	try("disconnecting it again", "CustomKeyStoreInvalidStateException",
		second(c.DisconnectCustomKeyStore(ctx, &kms.DisconnectCustomKeyStoreInput{CustomKeyStoreId: id})))
	if got := state(t, c, key); got != "Unavailable" {
		t.Errorf("the key of a disconnected store is %s", got)
	}
	_, err = c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: secret.blob})
	try("Decrypt", "KMSInvalidStateException", err)
	if !strings.HasSuffix(err.Error(), ":key/"+key+" is unavailable.") {
		t.Errorf("Decrypt: %v", err)
	}
	_, err = c.DeleteCustomKeyStore(ctx, &kms.DeleteCustomKeyStoreInput{CustomKeyStoreId: id})
	try("deleting a store with keys", "CustomKeyStoreHasCMKsException", err)
	_, err = c.UpdateCustomKeyStore(ctx, &kms.UpdateCustomKeyStoreInput{CustomKeyStoreId: id, CloudHsmClusterId: aws.String("cluster-third234567")})
	try("moving the store to another token", "CloudHsmClusterNotRelatedException", err)
	_, err = c.UpdateCustomKeyStore(ctx, &kms.UpdateCustomKeyStoreInput{CustomKeyStoreId: id, NewCustomKeyStoreName: aws.String("renamed")})
	try("UpdateCustomKeyStore", "", err)
	list, err := c.DescribeCustomKeyStores(ctx, &kms.DescribeCustomKeyStoresInput{CustomKeyStoreName: aws.String("renamed")})
	if err != nil || len(list.CustomKeyStores) != 1 || *list.CustomKeyStores[0].CloudHsmClusterId != cluster {
		t.Errorf("DescribeCustomKeyStores: %+v, %v", list, err)
	}
	try("ConnectCustomKeyStore again", "", connect())
	secret.open(t, c)
	opened, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: data.CiphertextBlob})
	if err != nil || string(opened.Plaintext) != string(data.Plaintext) {
		t.Errorf("Decrypt of a data key: %v", err)
	}
	if got := state(t, c, key); got != "Enabled" {
		t.Errorf("the key of a connected store is %s", got)
	}
	empty, err := c.CreateCustomKeyStore(ctx, storeInput("empty", "cluster-third234567"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.DeleteCustomKeyStore(ctx, &kms.DeleteCustomKeyStoreInput{CustomKeyStoreId: empty.CustomKeyStoreId})
	try("DeleteCustomKeyStore", "", err)
	if got := connection(t, c, *empty.CustomKeyStoreId); got != "CustomKeyStoreNotFoundException" {
		t.Errorf("a deleted store is %s", got)
	}
}

// second is the error of a call.
func second[T any](_ T, err error) error { return err }

// TestStartWithoutToken: the daemon starts without a further token, and takes
// it when it comes.
func TestStartWithoutToken(t *testing.T) {
	t.Parallel()
	tok := testenv.NewTokenLabelled(t, "second")
	table := strings.Replace(furtherToken("second", cluster, tok, tok.Module, nil), "[[token]]\n", "[[token]]\nunavailable_after = \"100ms\"\n", 1)
	r := rig.New(t, rig.Config{Tables: table})
	c := r.Client("")
	store := newStore(t, c)
	key := newKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: &store})
	home := newKey(t, c, &kms.CreateKeyInput{})
	secret, there := seal(t, c, key, "secret"), seal(t, c, home, "at home")
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	tokens := filepath.Join(filepath.Dir(tok.ConfFile), "tokens")
	if err := os.Rename(tokens, tokens+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	r.Start(t)
	c = r.Client("")
	there.open(t, c)
	awaitState(t, c, key, "Unavailable")
	if _, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: secret.blob}); code(err) != "KMSInvalidStateException" {
		t.Errorf("Decrypt without the token: %v", err)
	}
	if s := r.Status(t); s.State != "degraded" {
		t.Errorf("the status is %s", s.State)
	}
	runJobs(t, r)
	if err := os.Remove(tokens); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tokens+".away", tokens); err != nil {
		t.Fatal(err)
	}
	awaitState(t, c, key, "Enabled")
	secret.open(t, c)
	seal(t, c, key, "and on")
}

// awaitState waits until the key is in the state.
func awaitState(t *testing.T, c *kms.Client, id, want string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for state(t, c, id) != want {
		if time.Now().After(deadline) {
			t.Fatalf("the key is %s, not %s, after a minute", state(t, c, id), want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// gone are functions that fail when a token is taken away.
var gone = []string{
	"C_Initialize", "C_GetSlotList", "C_GetTokenInfo", "C_OpenSession", "C_GetSessionInfo", "C_Login", "C_FindObjectsInit",
	"C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt", "C_GenerateRandom",
}

// TestTokenAway takes one of two tokens away under load and brings it back.
// The other's callers notice nothing.
func TestTokenAway(t *testing.T) {
	t.Parallel()
	tok := testenv.NewTokenLabelled(t, "second")
	module := shim.New(t, tok.Module)
	r := rig.New(t, rig.Config{Tables: furtherToken("second", cluster, tok, module.Path, module.Env)})
	c := r.Client("")
	store := newStore(t, c)
	home := newKey(t, c, &kms.CreateKeyInput{})
	away := newKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: &store})
	before := seal(t, c, away, "before")

	var (
		load sync.WaitGroup
		stop = make(chan struct{})
		done [2]atomic.Int64 // calls answered, for home and away
	)
	for i := range 12 {
		load.Go(func() {
			id, mine := home, &done[0]
			if i%3 == 0 {
				id, mine = away, &done[1]
			}
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: []byte("load")})
				switch {
				case err == nil:
					mine.Add(1)
				case id == home:
					t.Errorf("a key of the other token: %v", err)
					return
				case code(err) != "KMSInvalidStateException" && code(err) != "KeyUnavailableException":
					t.Errorf("a key of the lost token: %v", err)
					return
				}
			}
		})
	}
	served := func(i int) { // waits until some more calls are answered
		for until := done[i].Load() + 50; done[i].Load() < until && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
	}
	for range 3 {
		served(0)
		served(1)
		for _, f := range gone {
			module.Control.Set(f, shim.Fail(0x32)) // CKR_DEVICE_REMOVED
		}
		awaitState(t, c, away, "Unavailable")
		_, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &away, Plaintext: []byte("x")})
		if code(err) != "KMSInvalidStateException" || !strings.HasSuffix(err.Error(), ":key/"+away+" is unavailable.") {
			t.Errorf("Encrypt: %v", err)
		}
		served(0)
		for _, f := range gone {
			module.Control.Clear(f)
		}
		back := time.Now()
		awaitState(t, c, away, "Enabled")
		t.Logf("back after %v", time.Since(back).Round(time.Millisecond))
		before.open(t, c)
	}
	close(stop)
	load.Wait()
	t.Logf("%d calls at home, %d away", done[0].Load(), done[1].Load())
}
