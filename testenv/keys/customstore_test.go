package keys

import (
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

// TestCustomKeyStoreStranger: who may not create keys does not learn from CreateKey
// which stores there are, nor their states.
func TestCustomKeyStoreStranger(t *testing.T) {
	t.Parallel()
	tok := testenv.NewTokenLabelled(t, "second")
	r := rig.New(t, rig.Config{World: true, Tables: rig.FurtherToken("second", rig.Cluster, tok, tok.Module, nil)})
	made, err := r.Client("").CreateCustomKeyStore(t.Context(), rig.KeyStoreInput("second", rig.Cluster)) // and it is disconnected
	if err != nil {
		t.Fatal(err)
	}
	stranger := r.As(t, rig.User{UID: 60961, GID: 60961})
	for what, id := range map[string]*string{"a store": made.CustomKeyStoreId, "no store": aws.String("cks-0123456789abcdef0")} {
		_, err := stranger.CreateKey(t.Context(), &kms.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: id})
		if rig.Code(err) != "AccessDeniedException" {
			t.Errorf("CreateKey in %s: %v", what, err)
		}
	}
}

// TestCustomKeyStore takes a store through its life, with the errors on the way.
func TestCustomKeyStore(t *testing.T) {
	t.Parallel()
	tok := testenv.NewTokenLabelled(t, "second")
	third := testenv.NewTokenLabelled(t, "third")
	r := rig.New(t, rig.Config{PlaintextDataKeys: true, Tables: rig.FurtherToken("second", rig.Cluster, tok, tok.Module, nil) +
		rig.FurtherToken("third", "cluster-third234567", third, third.Module, nil)})
	c, ctx := r.Client(""), t.Context()
	try := func(what, want string, err error) {
		t.Helper()
		if rig.Code(err) != want {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	create := func(in *kms.CreateCustomKeyStoreInput) error {
		_, err := c.CreateCustomKeyStore(ctx, in)
		return err
	}
	try("a cluster that is not there", "CloudHsmClusterNotFoundException", create(rig.KeyStoreInput("s", "cluster-zzzzzzzzzzz")))
	partial := rig.KeyStoreInput("s", rig.Cluster)
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
	made, err := c.CreateCustomKeyStore(ctx, rig.KeyStoreInput("second", rig.Cluster))
	if err != nil {
		t.Fatal(err)
	}
	id := made.CustomKeyStoreId
	if got := rig.Connection(t, c, *id); got != "DISCONNECTED" {
		t.Errorf("a new store is %s", got)
	}
	try("the cluster again", "CloudHsmClusterInUseException", create(rig.KeyStoreInput("other", rig.Cluster)))
	try("the name again", "CustomKeyStoreNameInUseException", create(rig.KeyStoreInput("second", "cluster-third234567")))
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
	if got := rig.Connection(t, c, *id); got != "CONNECTED" {
		t.Errorf("a store that was connected twice is %s", got)
	}
	for what, u := range map[string]struct {
		in   *kms.UpdateCustomKeyStoreInput
		want string
	}{
		"its name":                  {&kms.UpdateCustomKeyStoreInput{NewCustomKeyStoreName: aws.String("n")}, ""},
		"its cluster":               {&kms.UpdateCustomKeyStoreInput{CloudHsmClusterId: aws.String(rig.Cluster)}, "CustomKeyStoreInvalidStateException"},
		"its password":              {&kms.UpdateCustomKeyStoreInput{KeyStorePassword: aws.String("kmsPswd2")}, "CustomKeyStoreInvalidStateException"},
		"its name and its password": {&kms.UpdateCustomKeyStoreInput{NewCustomKeyStoreName: aws.String("m"), KeyStorePassword: aws.String("kmsPswd2")}, "CustomKeyStoreInvalidStateException"},
	} {
		u.in.CustomKeyStoreId = id
		try("changing "+what+" while connected", u.want, rig.ErrOf(c.UpdateCustomKeyStore(ctx, u.in)))
	}
	if list, err := c.DescribeCustomKeyStores(ctx, &kms.DescribeCustomKeyStoresInput{CustomKeyStoreName: aws.String("n")}); err != nil || len(list.CustomKeyStores) != 1 {
		t.Errorf("a store that was renamed while connected: %+v, %v", list, err)
	}
	_, err = c.DeleteCustomKeyStore(ctx, &kms.DeleteCustomKeyStoreInput{CustomKeyStoreId: id})
	try("deleting it while connected", "CustomKeyStoreInvalidStateException", err)

	for what, in := range map[string]*kms.CreateKeyInput{
		"a signing key":              {Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: id, KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify},
		"an RSA key that decrypts":   {Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: id, KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt},
		"a key for MACs":             {Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: id, KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac},
		"a multi-Region key":         {Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: id, MultiRegion: aws.Bool(true)},
		"a key of an external store": {Origin: types.OriginTypeExternalKeyStore, CustomKeyStoreId: id, XksKeyId: aws.String("k")},
	} {
		_, err := c.CreateKey(ctx, in)
		try(what, "UnsupportedOperationException", err)
	}
	key := rig.NewKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: id})
	meta, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &key})
	if err != nil || meta.KeyMetadata.Origin != types.OriginTypeAwsCloudhsm || aws.ToString(meta.KeyMetadata.CustomKeyStoreId) != *id ||
		aws.ToString(meta.KeyMetadata.CloudHsmClusterId) != rig.Cluster {
		t.Errorf("DescribeKey: %+v, %v", meta.KeyMetadata, err)
	}
	if out := tok.Run(t, "pkcs11-tool", "--module", tok.Module, "--token-label", tok.Label, "--login", "--pin", tok.PIN, "--list-objects"); !strings.Contains(string(out), key) {
		t.Error("the key is not in the store's token")
	}
	if got := rig.Objects(t, r, key); len(got) != 0 {
		t.Errorf("the first token has %v", got)
	}
	secret := rig.Seal(t, c, key, "secret")
	data, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: types.DataKeySpecAes256})
	try("GenerateDataKey", "", err)
	for what, err := range map[string]error{
		"GenerateDataKeyPair": rig.ErrOf(c.GenerateDataKeyPair(ctx, &kms.GenerateDataKeyPairInput{KeyId: &key, KeyPairSpec: "ECC_NIST_P256"})),
		"GenerateDataKeyPairWithoutPlaintext": rig.ErrOf(c.GenerateDataKeyPairWithoutPlaintext(ctx, &kms.GenerateDataKeyPairWithoutPlaintextInput{
			KeyId: &key, KeyPairSpec: "ECC_NIST_P256",
		})),
		"EnableKeyRotation":      rig.ErrOf(c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &key})),
		"RotateKeyOnDemand":      rig.ErrOf(c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &key})),
		"GetParametersForImport": rig.ErrOf(c.GetParametersForImport(ctx, &kms.GetParametersForImportInput{KeyId: &key, WrappingAlgorithm: "RSAES_OAEP_SHA_256", WrappingKeySpec: "RSA_2048"})),
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
		rig.ErrOf(c.DisconnectCustomKeyStore(ctx, &kms.DisconnectCustomKeyStoreInput{CustomKeyStoreId: id})))
	if got := rig.State(t, c, key); got != "Unavailable" {
		t.Errorf("the key of a disconnected store is %s", got)
	}
	_, err = c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: secret.Blob})
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
	if err != nil || len(list.CustomKeyStores) != 1 || *list.CustomKeyStores[0].CloudHsmClusterId != rig.Cluster {
		t.Errorf("DescribeCustomKeyStores: %+v, %v", list, err)
	}
	try("ConnectCustomKeyStore again", "", connect())
	secret.Open(t, c)
	opened, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: data.CiphertextBlob})
	if err != nil || string(opened.Plaintext) != string(data.Plaintext) {
		t.Errorf("Decrypt of a data key: %v", err)
	}
	if got := rig.State(t, c, key); got != "Enabled" {
		t.Errorf("the key of a connected store is %s", got)
	}
	empty, err := c.CreateCustomKeyStore(ctx, rig.KeyStoreInput("empty", "cluster-third234567"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.DeleteCustomKeyStore(ctx, &kms.DeleteCustomKeyStoreInput{CustomKeyStoreId: empty.CustomKeyStoreId})
	try("DeleteCustomKeyStore", "", err)
	if got := rig.Connection(t, c, *empty.CustomKeyStoreId); got != "CustomKeyStoreNotFoundException" {
		t.Errorf("a deleted store is %s", got)
	}
}

// TestStartWithoutToken: the daemon starts without a further token, and takes
// it when it comes.
func TestStartWithoutToken(t *testing.T) {
	t.Parallel()
	tok := testenv.NewTokenLabelled(t, "second")
	table := strings.Replace(rig.FurtherToken("second", rig.Cluster, tok, tok.Module, nil), "[[token]]\n", "[[token]]\nunavailable_after = \"100ms\"\n", 1)
	r := rig.New(t, rig.Config{Tables: table})
	c := r.Client("")
	store := rig.NewKeyStore(t, c)
	key := rig.NewKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: &store})
	home := rig.NewKey(t, c, &kms.CreateKeyInput{})
	secret, there := rig.Seal(t, c, key, "secret"), rig.Seal(t, c, home, "at home")
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
	there.Open(t, c)
	awaitState(t, c, key, "Unavailable")
	if _, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: secret.Blob}); rig.Code(err) != "KMSInvalidStateException" {
		t.Errorf("Decrypt without the token: %v", err)
	}
	if s := r.Status(t); s.State != "degraded" {
		t.Errorf("the status is %s", s.State)
	}
	rig.RunJobs(t, r)
	if err := os.Remove(tokens); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tokens+".away", tokens); err != nil {
		t.Fatal(err)
	}
	awaitState(t, c, key, "Enabled")
	secret.Open(t, c)
	rig.Seal(t, c, key, "and on")
}

// awaitState waits until the key is in the state.
func awaitState(t *testing.T, c *kms.Client, id, want string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for rig.State(t, c, id) != want {
		if time.Now().After(deadline) {
			t.Fatalf("the key is %s, not %s, after a minute", rig.State(t, c, id), want)
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
	r := rig.New(t, rig.Config{Tables: rig.FurtherToken("second", rig.Cluster, tok, module.Path, module.Env)})
	c := r.Client("")
	store := rig.NewKeyStore(t, c)
	home := rig.NewKey(t, c, &kms.CreateKeyInput{})
	away := rig.NewKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: &store})
	before := rig.Seal(t, c, away, "before")

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
				case rig.Code(err) != "KMSInvalidStateException" && rig.Code(err) != "KeyUnavailableException":
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
		if rig.Code(err) != "KMSInvalidStateException" || !strings.HasSuffix(err.Error(), ":key/"+away+" is unavailable.") {
			t.Errorf("Encrypt: %v", err)
		}
		served(0)
		for _, f := range gone {
			module.Control.Clear(f)
		}
		back := time.Now()
		awaitState(t, c, away, "Enabled")
		t.Logf("back after %v", time.Since(back).Round(time.Millisecond))
		before.Open(t, c)
	}
	close(stop)
	load.Wait()
	t.Logf("%d calls at home, %d away", done[0].Load(), done[1].Load())
}
