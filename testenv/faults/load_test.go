package faults

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"cmkd/testenv/rig"
)

const (
	// secret is in every plaintext and in every encryption context.
	secret = "open-sesame-3f9c"
	// pause is between the calls of one caller: the load is steady, not heavy.
	pause = 30 * time.Millisecond
	// change is the pause of callers that change something.
	changePause = 300 * time.Millisecond
)

// kind is what a caller does, again and again. All its answers are checked.
type kind string

// The kinds of the load. The bystander's key is in a token of its own.
const (
	encrypts  kind = "encrypt"
	dataKeys  kind = "data key"
	decrypts  kind = "decrypt"
	signs     kind = "sign"
	rsaCrypts kind = "RSA"
	macs      kind = "MAC"
	describes kind = "describe"
	changes   kind = "change"
	creates   kind = "create"
	bystander kind = "bystander"
)

// noAnswer is the code of a call whose connection failed.
const noAnswer = "no answer"

// call is one call to the API as a caller saw it.
type call struct {
	kind      kind
	operation string
	code      string // "" if it is well
	status    int    // of HTTP
	began     time.Time
	took      time.Duration
	request   string
	text      string // of the error
}

// load makes mixed calls until it is stopped.
type load struct {
	client   *kms.Client
	keys     map[kind]string
	object   string // the file of the key for encrypts in the token
	old      []byte // a ciphertext from the beginning
	mac      []byte // of the message
	public   *ecdsa.PublicKey
	context  map[string]string
	checking sync.WaitGroup
	stop     context.CancelFunc

	mu    sync.Mutex // guards what follows
	calls []call
	wrong []string // answers that were good and false
	turns map[kind]turn
}

// turn is a turn of a kind that went well.
type turn struct {
	n     int
	began time.Time // of the last one
	ended time.Time
}

// newLoad makes the keys. store is the custom key store of the bystander.
func newLoad(t *testing.T, r *rig.Rig, store string) *load {
	t.Helper()
	ctx := t.Context()
	l := &load{client: r.Client(""), keys: map[kind]string{}, turns: map[kind]turn{}, context: map[string]string{"purpose": secret}}
	create := func(k kind, in *kms.CreateKeyInput) string {
		out, err := l.client.CreateKey(ctx, in)
		if err != nil {
			t.Fatalf("CreateKey for %s: %v", k, err)
		}
		l.keys[k] = *out.KeyMetadata.KeyId
		return l.keys[k]
	}
	for l.object == "" { // another one may be the daemon's, which begins an epoch
		before := objects(t, r)
		create(encrypts, &kms.CreateKeyInput{})
		fresh := slices.DeleteFunc(objects(t, r), func(f string) bool { return slices.Contains(before, f) })
		if len(fresh) == 1 {
			l.object = fresh[0]
		}
	}
	create(changes, &kms.CreateKeyInput{})
	create(rsaCrypts, &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt})
	create(bystander, &kms.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: &store})
	id := create(macs, &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	made, err := l.client.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: &id, Message: []byte(secret), MacAlgorithm: types.MacAlgorithmSpecHmacSha256})
	if err != nil {
		t.Fatal(err)
	}
	l.mac = made.Mac
	id = create(signs, &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
	public, err := l.client.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &id})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParsePKIXPublicKey(public.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	l.public = parsed.(*ecdsa.PublicKey)
	id = l.keys[encrypts]
	sealed, err := l.client.Encrypt(ctx, &kms.EncryptInput{KeyId: &id, Plaintext: []byte(secret), EncryptionContext: l.context})
	if err != nil {
		t.Fatal(err)
	}
	l.old = sealed.CiphertextBlob
	return l
}

// objects are the files of the objects in the main token.
func objects(t *testing.T, r *rig.Rig) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.Dir(r.Token.ConfFile), "tokens", "*", "*.object"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the token has no objects: %v", err)
	}
	return files
}

// start starts a caller of each kind.
func (l *load) start(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = func() { cancel(); l.checking.Wait() }
	t.Cleanup(l.stop)
	for _, c := range []struct {
		kind  kind
		turn  func(context.Context) error
		pause time.Duration
	}{
		{encrypts, l.envelope(encrypts), pause},
		{dataKeys, l.dataKey, pause},
		{decrypts, l.opening, pause},
		{signs, l.signature, pause},
		{rsaCrypts, l.rsaRound, pause},
		{macs, l.macRound, pause},
		{describes, l.describe, pause},
		{changes, l.change, changePause},
		{creates, l.create, changePause},
		{bystander, l.envelope(bystander), pause},
	} {
		l.checking.Go(func() { l.run(ctx, c.kind, c.turn, c.pause) })
	}
}

// run makes turns until ctx ends. The calls themselves go on to their end.
func (l *load) run(ctx context.Context, k kind, do func(context.Context) error, pause time.Duration) {
	for ctx.Err() == nil {
		began := time.Now()
		err := do(context.WithValue(context.Background(), kindKey{}, k))
		l.mu.Lock()
		if err == nil {
			l.turns[k] = turn{l.turns[k].n + 1, began, time.Now()}
		} else if w, ok := errors.AsType[wrongError](err); ok {
			l.wrong = append(l.wrong, string(w))
		}
		l.mu.Unlock()
		select { // the load is paced by the clock on purpose
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

type kindKey struct{}

// wrongError is an answer that is good and false, the worst that there is.
type wrongError string

func (e wrongError) Error() string { return string(e) }

func wrongf(format string, args ...any) error { return wrongError(fmt.Sprintf(format, args...)) }

// made notes a call to the API and passes its error on.
func made[In, Out any](ctx context.Context, l *load, do func(context.Context, *In, ...func(*kms.Options)) (*Out, error), in *In) (*Out, error) {
	c := call{kind: ctx.Value(kindKey{}).(kind), began: time.Now()}
	out, err := do(ctx, in, func(o *kms.Options) {
		o.APIOptions = append(o.APIOptions, func(s *middleware.Stack) error { return s.Deserialize.Add(&witness{&c}, middleware.Before) })
	})
	c.took = time.Since(c.began)
	c.code, c.status = codeOf(err)
	if err != nil {
		c.text = err.Error()
	}
	l.mu.Lock()
	l.calls = append(l.calls, c)
	l.mu.Unlock()
	return out, err
}

// witness notes the request ID of an answer.
type witness struct{ call *call }

// ID implements middleware.DeserializeMiddleware.
func (*witness) ID() string { return "witness" }

// HandleDeserialize implements middleware.DeserializeMiddleware.
func (w *witness) HandleDeserialize(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
	out, metadata, err := next.HandleDeserialize(ctx, in)
	w.call.operation = awsmiddleware.GetOperationName(ctx)
	w.call.request, _ = awsmiddleware.GetRequestIDMetadata(metadata)
	return out, metadata, err
}

// codeOf is the error code and the status of HTTP.
func codeOf(err error) (string, int) {
	if err == nil {
		return "", 200
	}
	status := 0
	if e, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		status = e.HTTPStatusCode()
	}
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode(), status
	}
	return noAnswer, status
}

// envelope encrypts and decrypts.
func (l *load) envelope(k kind) func(context.Context) error {
	return func(ctx context.Context) error {
		id := l.keys[k]
		text := fmt.Appendf(nil, "%s %d", secret, time.Now().UnixNano())
		sealed, err := made(ctx, l, l.client.Encrypt, &kms.EncryptInput{KeyId: &id, Plaintext: text, EncryptionContext: l.context})
		if err != nil {
			return err
		}
		return l.open(ctx, sealed.CiphertextBlob, text)
	}
}

func (l *load) opening(ctx context.Context) error { return l.open(ctx, l.old, []byte(secret)) }

// open decrypts and compares.
func (l *load) open(ctx context.Context, blob, text []byte) error {
	out, err := made(ctx, l, l.client.Decrypt, &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: l.context})
	if err != nil {
		return err
	}
	if !bytes.Equal(out.Plaintext, text) {
		return wrongf("Decrypt returned %d other bytes", len(out.Plaintext))
	}
	return nil
}

func (l *load) dataKey(ctx context.Context) error {
	id := l.keys[encrypts]
	out, err := made(ctx, l, l.client.GenerateDataKey, &kms.GenerateDataKeyInput{KeyId: &id, KeySpec: types.DataKeySpecAes256, EncryptionContext: l.context})
	if err != nil {
		return err
	}
	return l.open(ctx, out.CiphertextBlob, out.Plaintext)
}

func (l *load) signature(ctx context.Context) error {
	id, message := l.keys[signs], fmt.Appendf(nil, "%s %d", secret, time.Now().UnixNano())
	out, err := made(ctx, l, l.client.Sign, &kms.SignInput{KeyId: &id, Message: message, SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256})
	if err != nil {
		return err
	}
	if digest := sha256.Sum256(message); !ecdsa.VerifyASN1(l.public, digest[:], out.Signature) {
		return wrongf("a signature does not verify")
	}
	return nil
}

func (l *load) rsaRound(ctx context.Context) error {
	id, text := l.keys[rsaCrypts], fmt.Appendf(nil, "%s %d", secret, time.Now().UnixNano())
	const algorithm = types.EncryptionAlgorithmSpecRsaesOaepSha256
	sealed, err := made(ctx, l, l.client.Encrypt, &kms.EncryptInput{KeyId: &id, Plaintext: text, EncryptionAlgorithm: algorithm})
	if err != nil {
		return err
	}
	out, err := made(ctx, l, l.client.Decrypt, &kms.DecryptInput{KeyId: &id, CiphertextBlob: sealed.CiphertextBlob, EncryptionAlgorithm: algorithm})
	if err != nil {
		return err
	}
	if !bytes.Equal(out.Plaintext, text) {
		return wrongf("Decrypt by RSA returned %d other bytes", len(out.Plaintext))
	}
	return nil
}

func (l *load) macRound(ctx context.Context) error {
	id := l.keys[macs]
	out, err := made(ctx, l, l.client.GenerateMac, &kms.GenerateMacInput{KeyId: &id, Message: []byte(secret), MacAlgorithm: types.MacAlgorithmSpecHmacSha256})
	if err != nil {
		return err
	}
	if !bytes.Equal(out.Mac, l.mac) {
		return wrongf("GenerateMac returned another MAC")
	}
	return nil
}

func (l *load) describe(ctx context.Context) error {
	id := l.keys[encrypts]
	_, err := made(ctx, l, l.client.DescribeKey, &kms.DescribeKeyInput{KeyId: &id})
	return err
}

func (l *load) change(ctx context.Context) error {
	id := l.keys[changes]
	text := time.Now().String()
	_, err := made(ctx, l, l.client.UpdateKeyDescription, &kms.UpdateKeyDescriptionInput{KeyId: &id, Description: &text})
	return err
}

func (l *load) create(ctx context.Context) error {
	out, err := made(ctx, l, l.client.CreateKey, &kms.CreateKeyInput{})
	if err != nil {
		return err
	}
	_, err = made(ctx, l, l.client.ScheduleKeyDeletion, &kms.ScheduleKeyDeletionInput{KeyId: out.KeyMetadata.KeyId, PendingWindowInDays: aws.Int32(7)})
	return err
}

// mark is a place in the record of calls.
func (l *load) mark() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.calls)
}

// since are the calls from mark on.
func (l *load) since(mark int) []call {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]call{}, l.calls[mark:]...)
}

// falsities are the answers that were wrong, and forgets them.
func (l *load) falsities() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.wrong
	l.wrong = nil
	return w
}

// goodSince returns the kinds that had no good turn that began after at, and when
// the last of the first good ones ended.
func (l *load) goodSince(at time.Time, kinds []kind) (missing []kind) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range kinds {
		if !l.turns[k].began.After(at) {
			missing = append(missing, k)
		}
	}
	return missing
}
