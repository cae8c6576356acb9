package client

import (
	"cmp"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	kwp "github.com/tink-crypto/tink-go/v2/kwp/subtle"
	"go.uber.org/goleak"

	"cmkd/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service answers the operations that take a Recipient as the daemon does,
// with a key of its own in place of a token.
type service struct {
	algorithms []string // of OAEP that the "token" knows
	plaintext  bool     // plaintext data keys are allowed
	says       bool     // which algorithms there are

	mu       sync.Mutex // guards what follows
	requests []request
	aead     cipher.AEAD
}

// testRegion is the service's own Region.
const testRegion = "us-east-1"

// request is what a client sent, as far as tests look at it.
type request struct {
	Operation         string `json:"-"`
	Region            string `json:"-"`
	KeyId             string
	NumberOfBytes     int
	CiphertextBlob    []byte
	Plaintext         []byte
	EncryptionContext map[string]string
	Recipient         *struct {
		AttestationDocument    []byte
		KeyEncryptionAlgorithm string
	}
}

// answerTo is the union of the answers.
type answerTo struct {
	KeyId                    string `json:",omitempty"`
	CiphertextBlob           []byte `json:",omitempty"`
	PrivateKeyCiphertextBlob []byte `json:",omitempty"`
	Plaintext                []byte `json:",omitempty"`
	PrivateKeyPlaintext      []byte `json:",omitempty"`
	SharedSecret             []byte `json:",omitempty"`
	CiphertextForRecipient   []byte `json:",omitempty"`
}

func newService() *service {
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return &service{algorithms: []string{"RSAES_OAEP_SHA_256", "RSAES_OAEP_SHA_1"}, aead: aead}
}

// start serves s until the test ends and returns the socket's path.
func (s *service) start(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "client")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	srv, err := socket.Listen(t.Context(), socket.Config{Path: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, s) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return path
}

// seen returns the requests so far and forgets them.
func (s *service) seen() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.requests = nil }()
	return s.requests
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == recipientPath {
		s.serveRecipient(w)
		return
	}
	var in request
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		fail(w, "SerializationException", err.Error())
		return
	}
	in.Operation = strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	if scope := strings.Split(r.Header.Get("Authorization"), "/"); len(scope) > 2 {
		in.Region = scope[2]
	}
	s.mu.Lock()
	s.requests = append(s.requests, in)
	s.mu.Unlock()
	if in.NumberOfBytes > 1024 {
		fail(w, "ValidationException", "Value '2000' at 'numberOfBytes' failed to satisfy constraint")
		return
	}
	secret, out, target := s.perform(&in)
	if secret == nil {
		fail(w, "InvalidCiphertextException", "")
		return
	}
	if in.Recipient == nil {
		if !s.plaintext && in.Operation != "GenerateRandom" && in.Operation != "ListKeys" && in.Operation != "Encrypt" {
			fail(w, "AccessDeniedException", "plaintext_data_keys")
			return
		}
		*target = secret
	} else {
		if !slices.Contains(s.algorithms, in.Recipient.KeyEncryptionAlgorithm) {
			fail(w, "UnsupportedOperationException", "The token lacks CKM_RSA_PKCS_OAEP with SHA-256.")
			return
		}
		public, err := x509.ParsePKIXPublicKey(in.Recipient.AttestationDocument)
		if err != nil {
			fail(w, "ValidationException", err.Error())
			return
		}
		out.CiphertextForRecipient = wrapTo(public.(*rsa.PublicKey), in.Recipient.KeyEncryptionAlgorithm, secret)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	json.NewEncoder(w).Encode(out)
}

// serveRecipient answers as daemons before the question do, unless s says.
func (s *service) serveRecipient(w http.ResponseWriter) {
	if !s.says {
		http.NotFound(w, nil)
		return
	}
	json.NewEncoder(w).Encode(map[string]any{"algorithms": s.algorithms})
}

// perform does the operation and says where its plaintext would go.
func (s *service) perform(in *request) (secret []byte, out *answerTo, target *[]byte) {
	out = &answerTo{KeyId: "arn:aws:kms:" + cmp.Or(in.Region, testRegion) + ":000000000000:key/mrk-1"}
	if strings.HasPrefix(in.KeyId, "arn:") {
		out.KeyId = in.KeyId
	}
	if len(in.EncryptionContext) == 0 { // as if there was none
		in.EncryptionContext = nil
	}
	aad, _ := json.Marshal(in.EncryptionContext)
	switch in.Operation {
	case "GenerateDataKey":
		secret = random(32)
		out.CiphertextBlob = s.aead.Seal(nil, nil, secret, aad)
		return secret, out, &out.Plaintext
	case "Encrypt":
		out.CiphertextBlob = s.aead.Seal(nil, nil, in.Plaintext, aad)
		return []byte{}, out, &out.Plaintext
	case "GenerateDataKeyPair":
		secret = random(2375) // as long as an RSA-4096 key in PKCS#8
		out.PrivateKeyCiphertextBlob = s.aead.Seal(nil, nil, secret, aad)
		return secret, out, &out.PrivateKeyPlaintext
	case "GenerateRandom":
		return random(in.NumberOfBytes), out, &out.Plaintext
	case "DeriveSharedSecret":
		return random(66), out, &out.SharedSecret
	case "Decrypt":
		secret, err := s.aead.Open(nil, nil, in.CiphertextBlob, aad)
		if err != nil {
			return nil, nil, nil
		}
		return secret, out, &out.Plaintext
	default:
		return []byte{}, out, new([]byte)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// wrapTo makes a CiphertextForRecipient.
func wrapTo(public *rsa.PublicKey, algorithm string, secret []byte) []byte {
	hash := crypto.SHA256
	if algorithm == "RSAES_OAEP_SHA_1" {
		hash = crypto.SHA1
	}
	oaep := func(p []byte) []byte {
		c, err := rsa.EncryptOAEP(hash.New(), rand.Reader, public, p, nil)
		if err != nil {
			panic(err)
		}
		return c
	}
	if len(secret) <= public.Size()-2*hash.Size()-2 {
		return oaep(secret)
	}
	kek := random(kekLen)
	wrap, err := kwp.NewKWP(kek)
	if err != nil {
		panic(err)
	}
	wrapped, err := wrap.Wrap(secret)
	if err != nil {
		panic(err)
	}
	return append(oaep(kek), wrapped...)
}

func fail(w http.ResponseWriter, code, message string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(http.StatusBadRequest)
	body := map[string]string{"__type": code}
	if message != "" {
		body["message"] = message
	}
	json.NewEncoder(w).Encode(body)
}
