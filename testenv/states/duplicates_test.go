package states_test

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/daemon/store/sqlite"
	"cmkd/testenv/rig"
)

// twice is a key of which somebody else makes a second object.
type twice struct {
	name   string
	create kms.CreateKeyInput
	make   []string // arguments of pkcs11-tool that make another object
	class  string   // that it calls the class
	use    func(t *testing.T, c *kms.Client, id string) error
	id     string
	ckaID  string
}

func kinds() []*twice {
	return []*twice{
		{
			name: "symmetric", make: []string{"--keygen", "--key-type", "AES:32"}, class: "secrkey",
			use: rig.EncryptWith,
		},
		{
			name:   "asymmetric",
			create: kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify},
			make:   []string{"--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign"}, class: "privkey",
			use: func(t *testing.T, c *kms.Client, id string) error {
				_, err := c.Sign(t.Context(), &kms.SignInput{KeyId: &id, Message: []byte("text"), SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256})
				return err
			},
		},
		{
			name:   "MAC",
			create: kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac},
			make:   []string{"--keygen", "--key-type", "generic:32"}, class: "secrkey",
			use: func(t *testing.T, c *kms.Client, id string) error {
				_, err := c.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: &id, Message: []byte("text"), MacAlgorithm: types.MacAlgorithmSpecHmacSha256})
				return err
			},
		},
	}
}

// tool runs pkcs11-tool on the token: what it does, another process does.
func tool(t *testing.T, r *rig.Rig, args ...string) {
	t.Helper()
	r.Token.Run(t, "pkcs11-tool", append([]string{
		"--module", r.Token.Module, "--token-label", r.Token.Label, "--login", "--pin", r.Token.PIN,
	}, args...)...)
}

// inventory asks for what the tokens and the database do not agree on.
func inventory(t *testing.T, r *rig.Rig) string {
	t.Helper()
	body, code := post(t, r, "/recover", "{}")
	if code != http.StatusOK {
		t.Fatalf("recover: %d %s", code, body)
	}
	return body
}

func keyState(t *testing.T, c *kms.Client, id string) types.KeyState {
	t.Helper()
	out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
	if err != nil {
		t.Fatal(err)
	}
	return out.KeyMetadata.KeyState
}

// TestDuplicates: of two objects with one CKA_ID the daemon uses neither, whichever
// plugin has the key; status, metrics, DescribeKey and recover say so, from the start
// on, and all is well again when the other object is gone. An older version of the key
// decrypts, and a rotation mends the key.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c := r.Client("")
	keys := kinds()
	for _, k := range keys {
		out, err := c.CreateKey(t.Context(), &k.create)
		if err != nil {
			t.Fatal(err)
		}
		k.id = *out.KeyMetadata.KeyId
	}
	old, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &keys[0].id, Plaintext: []byte("text")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &keys[0].id}); err != nil {
		t.Fatal(err)
	}
	newer, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &keys[0].id, Plaintext: []byte("text")})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(t.Context(), r.Dir+"/s/cmkd.db", sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		v, _ := db.View().CurrentVersion(k.id)
		k.ckaID = hex.EncodeToString(v.CKAID)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		tool(t, r, append(k.make, "--id", k.ckaID, "--label", "another")...)
	}

	r.Start(t)
	eventually(t, "all duplicates are in the status", func() bool { return len(duplicatesIn(t, r)) == len(keys) })
	body, status := get(t, r, "/status")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, `"state": "degraded"`) {
		t.Errorf("the status is %d %s", status, body)
	}
	if metrics, _ := get(t, r, "/metrics"); !strings.Contains(metrics, `cmkd_duplicate_keys{token="main"} 3`) ||
		!strings.Contains(metrics, `cmkd_keys{region="us-east-1",state="Unavailable"} 3`) {
		t.Errorf("the metrics do not count 3 duplicates and 3 unavailable keys:\n%s", metrics)
	}
	found := inventory(t, r)
	for _, k := range keys {
		if !strings.Contains(found, k.ckaID) || !strings.Contains(body, k.ckaID) || !strings.Contains(body, k.id) {
			t.Errorf("%s: status or recover do not name %s", k.name, k.ckaID)
		}
		if err := k.use(t, c, k.id); rig.Code(err) != "KMSInvalidStateException" {
			t.Errorf("%s: using it: %v", k.name, err)
		}
		if state := keyState(t, c, k.id); state != types.KeyStateUnavailable {
			t.Errorf("%s: DescribeKey says %s", k.name, state)
		}
	}
	if _, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: newer.CiphertextBlob}); rig.Code(err) != "KMSInvalidStateException" {
		t.Errorf("Decrypt with the duplicate: %v", err)
	}
	if _, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: old.CiphertextBlob}); err != nil {
		t.Errorf("Decrypt with an older version: %v", err)
	}
	if _, err := c.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &keys[0].id}); err != nil {
		t.Errorf("rotating: %v", err)
	}
	if err := rig.EncryptWith(t, c, keys[0].id); err != nil || keyState(t, c, keys[0].id) != types.KeyStateEnabled {
		t.Errorf("Encrypt after a rotation: %v", err)
	}

	for _, k := range keys {
		tool(t, r, "--delete-object", "--type", k.class, "--id", k.ckaID, "--label", "another")
		if k.class == "privkey" {
			tool(t, r, "--delete-object", "--type", "pubkey", "--id", k.ckaID, "--label", "another")
		}
	}
	eventually(t, "recover finds no duplicates", func() bool { return !strings.Contains(inventory(t, r), "duplicates") })
	body, status = get(t, r, "/status")
	if status != http.StatusOK {
		t.Errorf("the status is %d %s", status, body)
	}
	for _, k := range keys {
		if err := k.use(t, c, k.id); err != nil || keyState(t, c, k.id) != types.KeyStateEnabled {
			t.Errorf("%s: using it when the duplicate is gone: %v", k.name, err)
		}
	}
	if _, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: newer.CiphertextBlob}); err != nil {
		t.Errorf("Decrypt when the duplicate is gone: %v", err)
	}
}

// duplicatesIn are the duplicates in the status.
func duplicatesIn(t *testing.T, r *rig.Rig) []any {
	t.Helper()
	body, _ := get(t, r, "/status")
	var s struct{ Duplicates []any }
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	return s.Duplicates
}
