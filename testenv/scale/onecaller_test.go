package scale

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// What one caller does must not stop the others.

// forge changes what a data key's blob holds: whoever has the material of the CMK
// can decrypt it and encrypt it again.
func forge(t *testing.T, material, blob []byte, change func([]byte)) []byte {
	t.Helper()
	const header, iv = 52, 12 // see daemon/ciphertext/blob.go
	block, err := aes.NewCipher(material)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	aad := append([]byte{}, blob[:header]...)
	aad = binary.BigEndian.AppendUint32(aad, uint32(len(rig.Account)))
	aad = append(aad, rig.Account...)
	aad = binary.BigEndian.AppendUint32(aad, 0) // no encryption context
	payload, err := gcm.Open(nil, blob[header:header+iv], blob[header+iv:], aad)
	if err != nil {
		t.Fatalf("the format of blobs is not what this test knows: %v", err)
	}
	change(payload)
	fresh := make([]byte, iv)
	_, _ = rand.Read(fresh)
	return gcm.Seal(append(append([]byte{}, blob[:header]...), fresh...), fresh, payload, aad)
}

// TestPoisonDataKey: a data key whose GCM tag is right and whose RFC 5649 part has
// one wrong bit is a bad ciphertext for its caller, and costs nobody a process. The
// others keep 90 % of what they have beside as many good calls; the short form
// allows for a loaded machine.
func TestPoisonDataKey(t *testing.T) {
	r := rig.New(t, rig.Config{PlaintextDataKeys: true})
	c := r.Client(rig.Region)
	m := rig.NewImport(t, c)
	m.Run(t)
	made, err := c.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &m.ID, KeySpec: types.DataKeySpecAes256})
	if err != nil {
		t.Fatal(err)
	}
	material := rig.ReadFile(t, m.Dir, "material.bin")
	poison := forge(t, material, made.CiphertextBlob, func(payload []byte) { payload[len(payload)-1] ^= 1 })
	good := forge(t, material, made.CiphertextBlob, func([]byte) {})
	if _, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: good}); err != nil {
		t.Fatalf("a blob that was decrypted and encrypted again: %v", err)
	}
	_, before, _ := plugin(t, r, "symmetric")

	l := newLoad(t, r)
	stop := l.start(t, 8)
	defer stop()
	// beside sends one blob again and again, and returns what the others get done.
	// The two are measured in turns, since the machine's speed drifts.
	over, pairs, want := 500*time.Millisecond, 3, 0.5
	if os.Getenv("CMKD_LONG") != "" {
		over, pairs, want = 2*time.Second, 9, 0.9
	}
	beside := func(blob []byte, wantCode string) float64 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		var sent atomic.Int64
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				_, err := c.Decrypt(context.WithoutCancel(ctx), &kms.DecryptInput{CiphertextBlob: blob})
				if got := rig.Code(err); got != wantCode {
					t.Errorf("Decrypt: %v, want %q", err, wantCode)
					return
				}
				sent.Add(1)
				time.Sleep(5 * time.Millisecond) // the same pace for both
			}
		}()
		from, begun := l.calls.Load(), time.Now()
		time.Sleep(over) // what is measured is a rate
		got := float64(l.calls.Load()-from) / time.Since(begun).Seconds()
		cancel()
		<-done
		if sent.Load() == 0 {
			t.Error("nothing was sent")
		}
		return got
	}
	var kept []float64
	for range pairs {
		withGood := beside(good, "")
		kept = append(kept, beside(poison, "InvalidCiphertextException")/withGood)
	}
	slices.Sort(kept)
	t.Logf("beside good calls 1, beside poison %.2f (median of %.2f)", kept[pairs/2], kept)
	if kept[pairs/2] < want {
		t.Errorf("the others keep %.0f %%", 100*kept[pairs/2])
	}
	if _, after, _ := plugin(t, r, "symmetric"); after != before {
		t.Errorf("poison cost %d processes", after-before)
	}
}

// TestHungCreationIsAnswered: the module does not come back from C_GenerateKey.
// Once costs the callers a wait, and calls with keys go on; if it never comes back,
// which also keeps another process from opening the token, callers get an answer
// well before the socket's own deadline. The status tells, keys of another plugin
// are made, and nothing stays in the token that nobody was told of.
func TestHungCreationIsAnswered(t *testing.T) {
	t.Parallel()
	tok := testenv.NewToken(t)
	m := shim.New(t, tok.Module)
	env := map[string]string{}
	for _, e := range m.Env {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	r := rig.New(t, rig.Config{Token: tok, Module: m.Path, Env: env, Tables: "unavailable_after = \"10m\"\n"})
	c := r.Client(rig.Region)
	once := func(o *kms.Options) { o.Retryer = aws.NopRetryer{} }
	id := rig.NewKey(t, c, &kms.CreateKeyInput{})
	before := tokenObjects(t, tok)

	// create makes a key and rotates another at the same time, and looks at the
	// status meanwhile.
	create := func() (errs []error) {
		results, told := make(chan error, 2), false
		go func() {
			_, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{}, once)
			results <- err
		}()
		go func() {
			_, err := c.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &id}, once)
			results <- err
		}()
		begun := time.Now()
		for len(errs) < 2 {
			select {
			case err := <-results:
				errs = append(errs, err)
			default:
				for _, p := range r.Status(t).Plugins {
					told = told || p.Name == "symmetric" && strings.Contains(p.Hanging, "SYMMETRIC_DEFAULT")
				}
				_, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: []byte("x")}, once)
				if got := rig.Code(err); got != "" && got != "KeyUnavailableException" {
					t.Errorf("Encrypt meanwhile: %v", err)
				}
			}
		}
		if took := time.Since(begun); took > 90*time.Second {
			t.Errorf("the answers took %v", took)
		}
		if !told {
			t.Error("the status has not told of it")
		}
		return errs
	}
	m.Control.SetRule("C_GenerateKey", shim.Rule{Do: shim.Hang, Times: 1})
	for _, err := range create() {
		if err != nil {
			t.Errorf("a creation that hangs once: %v", err)
		}
	}
	m.Control.Set("C_GenerateKey", shim.Hang)
	for _, err := range create() {
		if got := rig.Code(err); got != "DependencyTimeoutException" && got != "KeyUnavailableException" {
			t.Errorf("a creation that always hangs: %v", err)
		}
	}
	rig.NewKey(t, c, &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
	m.Control.Clear("C_GenerateKey")
	deadline := time.Now().Add(3 * time.Minute)
	for { // polls
		if _, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{}, once); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("when the token is well again: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	// Two keys and a version were made, and a pair.
	want := before + 3 + 2
	for n := tokenObjects(t, tok); n != want; n = tokenObjects(t, tok) {
		if time.Now().After(deadline) {
			t.Fatalf("%d objects in the token, want %d: something that nobody was told of has stayed", n, want)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// tokenObjects counts the objects in a SoftHSM2 token.
func tokenObjects(t *testing.T, tok *testenv.Token) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.Dir(tok.ConfFile), "*", "*", "*.object"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		if filepath.Base(f) != "token.object" {
			n++
		}
	}
	return n
}

// TestImportParametersAreFew: of what GetParametersForImport gives out for a key,
// the token keeps four wrapping pairs, and none once the key's deletion is
// scheduled.
func TestImportParametersAreFew(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c := r.Client(rig.Region)
	m, other := rig.NewImport(t, c), rig.NewImport(t, c)
	if err := r.Daemon.RunJobs(t.Context()); err != nil { // the key of an epoch that has ended goes
		t.Fatal(err)
	}
	before := tokenObjects(t, r.Token)
	kept := other.Parameters(t)
	var tokens []*kms.ImportKeyMaterialInput
	for range 6 {
		tokens = append(tokens, m.Parameters(t))
	}
	if n := tokenObjects(t, r.Token) - before; n != 2*(4+1) {
		t.Errorf("%d objects for six parameters of one key and one of another, want ten", n)
	}
	for i, in := range tokens[:2] {
		if _, err := c.ImportKeyMaterial(t.Context(), in); rig.Code(err) != "InvalidImportTokenException" {
			t.Errorf("the token that was given out as number %d of 6: %v", i+1, err)
		}
	}
	if _, err := c.ImportKeyMaterial(t.Context(), tokens[2]); err != nil {
		t.Errorf("the oldest of the last four: %v", err)
	}
	if _, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &m.ID}); err != nil {
		t.Fatal(err)
	}
	if n := tokenObjects(t, r.Token) - before; n != 2+1 {
		t.Errorf("%d objects are left when the deletion is scheduled, want the material and the other key's pair", n)
	}
	if _, err := c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: &m.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ImportKeyMaterial(t.Context(), tokens[5]); rig.Code(err) != "InvalidImportTokenException" {
		t.Errorf("a token from before the deletion was scheduled: %v", err)
	}
	if _, err := c.ImportKeyMaterial(t.Context(), kept); err != nil {
		t.Errorf("the other key's: %v", err)
	}
	m.Run(t) // with new ones
}
