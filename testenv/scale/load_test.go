package scale

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// load makes mixed calls from many callers until it is stopped. Every plugin
// has its share, and each answer is checked.
type load struct {
	client                *kms.Client
	aes, ecc, rsa, hmacID string
	public                []byte // of a recipient
	// badTenth alters the ciphertext of every tenth Decrypt.
	badTenth bool

	calls  atomic.Int64
	errors atomic.Int64
	mu     sync.Mutex
	some   []error // guarded by mu: the first of them
}

const someErrors = 10

// newLoad makes the keys.
func newLoad(t *testing.T, r *rig.Rig) *load {
	t.Helper()
	c := r.Client("")
	return &load{
		client: c,
		aes:    rig.NewKey(t, c, &kms.CreateKeyInput{}),
		ecc:    rig.NewKey(t, c, &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify}),
		rsa:    rig.NewKey(t, c, &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt}),
		hmacID: rig.NewKey(t, c, &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac}),
		public: rig.NewRecipient(t).Public,
	}
}

// start starts the callers. The function that it returns ends them and fails
// the test if any call failed.
func (l *load) start(t *testing.T, callers int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for n := range callers {
		running.Go(func() {
			for i := n; ctx.Err() == nil; i++ {
				// Not ctx: calls under way at the end count, too.
				if err := l.call(t.Context(), i); err != nil {
					l.failed(err)
				}
				l.calls.Add(1)
			}
		})
	}
	return func() {
		t.Helper()
		cancel()
		running.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		if n := l.errors.Load(); n > 0 {
			t.Errorf("%d of %d calls failed, such as:", n, l.calls.Load())
			for _, err := range l.some {
				t.Errorf("  %v", err)
			}
		}
	}
}

func (l *load) failed(err error) {
	l.errors.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.some) < someErrors {
		l.some = append(l.some, err)
	}
}

// turns is how many kinds of turns there are: one makes a data key.
const turns = 6

// call makes the calls of one turn.
func (l *load) call(ctx context.Context, turn int) error {
	switch turn % turns {
	case 0, 1:
		return l.envelope(ctx, turn)
	case 2:
		return l.dataKey(ctx)
	case 3:
		return l.signature(ctx)
	case 4:
		return l.mac(ctx)
	default:
		return l.rsaRound(ctx, turn)
	}
}

func (l *load) envelope(ctx context.Context, turn int) error {
	text := fmt.Appendf(nil, "turn %d", turn)
	if l.badTenth {
		text = bytes.Repeat(text[:6], 4096/6) // as long as Encrypt takes it
	}
	encryptionContext := map[string]string{"turn": "x"}
	sealed, err := l.client.Encrypt(ctx, &kms.EncryptInput{KeyId: &l.aes, Plaintext: text, EncryptionContext: encryptionContext})
	if err != nil {
		return err
	}
	in := &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: encryptionContext}
	if l.badTenth && turn%3 == 0 { // a third of a third: a tenth of all calls
		in.CiphertextBlob[len(in.CiphertextBlob)-1-turn%40] ^= 1
		if _, err := l.client.Decrypt(ctx, in); rig.Code(err) != "InvalidCiphertextException" {
			return fmt.Errorf("an altered ciphertext: %w", err)
		}
		return nil
	}
	opened, err := l.client.Decrypt(ctx, in)
	if err != nil {
		return err
	}
	if !bytes.Equal(opened.Plaintext, text) {
		return fmt.Errorf("Decrypt returned %q, not %q", opened.Plaintext, text)
	}
	return nil
}

func (l *load) dataKey(ctx context.Context) error {
	to := &types.RecipientInfo{AttestationDocument: l.public, KeyEncryptionAlgorithm: "RSAES_OAEP_SHA_1"}
	made, err := l.client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &l.aes, KeySpec: types.DataKeySpecAes256, Recipient: to})
	if err != nil {
		return err
	}
	_, err = l.client.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, Recipient: to})
	return err
}

func (l *load) signature(ctx context.Context) error {
	message := []byte("a message")
	made, err := l.client.Sign(ctx, &kms.SignInput{KeyId: &l.ecc, Message: message, SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256})
	if err != nil {
		return err
	}
	_, err = l.client.Verify(ctx, &kms.VerifyInput{
		KeyId: &l.ecc, Message: message, Signature: made.Signature, SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256,
	})
	return err
}

func (l *load) mac(ctx context.Context) error {
	message := []byte("a message")
	made, err := l.client.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: &l.hmacID, Message: message, MacAlgorithm: types.MacAlgorithmSpecHmacSha256})
	if err != nil {
		return err
	}
	_, err = l.client.VerifyMac(ctx, &kms.VerifyMacInput{KeyId: &l.hmacID, Message: message, Mac: made.Mac, MacAlgorithm: types.MacAlgorithmSpecHmacSha256})
	return err
}

// rsaRound also makes the calls that need no token.
func (l *load) rsaRound(ctx context.Context, turn int) error {
	described, err := l.client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &l.rsa})
	if err != nil {
		return err
	}
	if described.KeyMetadata.KeyState != types.KeyStateEnabled {
		return fmt.Errorf("the state of the RSA key is %s", described.KeyMetadata.KeyState)
	}
	sealed, err := l.client.Encrypt(ctx, &kms.EncryptInput{
		KeyId: &l.rsa, Plaintext: []byte("text"), EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha256,
	})
	if err != nil {
		return err
	}
	_, err = l.client.Decrypt(ctx, &kms.DecryptInput{
		KeyId: &l.rsa, CiphertextBlob: sealed.CiphertextBlob, EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha256,
	})
	if err != nil || turn%4 != 1 {
		return err
	}
	_, err = l.client.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(32)})
	return err
}
