package faults

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/callers"
	"cmkd/testenv/rig"
)

// stranger is a user who floods; nothing allows anything to them.
var stranger = rig.User{UID: 60971, GID: 60971}

// request is a whole request, as it is on the wire.
func request(operation, body string) []byte {
	return fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.1\r\n"+
		"X-Amz-Target: TrentService.%s\r\nContent-Length: %d\r\n\r\n%s", operation, len(body), body)
}

// good is a request that the load makes as well, as text.
func (s *stage) good() (operation, body string) {
	return "Encrypt", fmt.Sprintf(`{"KeyId":%q,"Plaintext":%q,"EncryptionContext":{"a":"b"}}`,
		s.load.keys[encrypts], base64.StdEncoding.EncodeToString([]byte("text")))
}

// malformed sends requests that some bytes of are others, and counts answers by
// their class. An answer of the class 5 is a failure: the caller is to blame.
func malformed(from func(*stage) (raw []byte, begin int)) func(*stage) {
	return func(s *stage) {
		raw, begin := from(s)
		var sent, classes [6]atomic.Int64
		var working sync.WaitGroup
		for seed := range uint64(4) {
			working.Go(func() {
				random := rand.New(rand.NewPCG(seed, 11)) //nolint:gosec // noise that can be made again
				for range 400 {
					altered := alter(random, raw, begin)
					sent[0].Add(1)
					status := s.send(altered)
					classes[status/100].Add(1)
					if status >= 500 {
						s.Errorf("%q is answered %d", altered, status)
					}
				}
			})
		}
		working.Wait()
		s.note("%d requests: %d closed, %d good, %d refused", sent[0].Load(), classes[0].Load(), classes[2].Load(), classes[4].Load())
	}
}

// alter changes, takes out or doubles some bytes from a place on.
func alter(random *rand.Rand, raw []byte, begin int) []byte {
	out := bytes.Clone(raw)
	for range 1 + random.IntN(4) {
		i := begin + random.IntN(len(out)-begin)
		switch random.IntN(4) {
		case 0:
			out[i] ^= 1 << random.IntN(8)
		case 1:
			out = append(out[:i], out[i+1:]...)
		case 2:
			out = append(out[:i], append([]byte{out[i], byte(random.IntN(256))}, out[i:]...)...)
		default:
			out = out[:max(i, begin+1)]
		}
		if len(out) <= begin+1 {
			break
		}
	}
	return out
}

// send sends bytes and returns the status of the answer, 0 if there is none.
func (s *stage) send(raw []byte) int {
	c, err := (&net.Dialer{}).DialContext(s.Context(), "unix", s.rig.Socket)
	if err != nil {
		s.Error(err)
		return 0
	}
	defer c.Close()
	if _, err := c.Write(raw); err != nil {
		return 0
	}
	_ = c.(*net.UnixConn).CloseWrite() // that is all
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body) // its length is not looked at
	return resp.StatusCode
}

// wholeRequest is a request of which any byte may be another one.
func wholeRequest(s *stage) ([]byte, int) {
	operation, body := s.good()
	return request(operation, body), 0
}

// held opens connections, does something with each until the row ends, and closes
// them.
func held(n int, do func(ctx context.Context, s *stage, c net.Conn)) func(*stage) {
	return func(s *stage) {
		ctx, cancel := context.WithCancel(context.Background())
		var working sync.WaitGroup
		var all []net.Conn
		for range n {
			c, err := s.rig.DialAs(stranger)
			if err != nil {
				s.Fatal(err)
			}
			all = append(all, c)
			working.Go(func() { do(ctx, s, c) })
		}
		s.undo = func() {
			cancel()
			for _, c := range all {
				_ = c.Close() // the daemon may have closed it
			}
			working.Wait()
		}
	}
}

// slowly sends a request one byte after the other.
func slowly(ctx context.Context, s *stage, c net.Conn) {
	operation, body := s.good()
	for _, b := range request(operation, body) {
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
		select { // slowness is what the row is about
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// deaf makes calls and never reads an answer.
func deaf(ctx context.Context, _ *stage, c net.Conn) {
	for ctx.Err() == nil {
		if _, err := c.Write(request("ListKeys", "{}")); err != nil {
			return
		}
	}
}

// idle does nothing.
func idle(context.Context, *stage, net.Conn) {}

// flood makes calls from 300 connections of another user.
func flood(s *stage) {
	operation, body := s.good()
	cmd := exec.CommandContext(s.Context(), filepath.Join(rig.Binaries(s.T), "flood"), "-any", "-callers", "300",
		"-socket", s.rig.Socket, "-uid", strconv.Itoa(int(stranger.UID)))
	cmd.Stdin = bytes.NewReader(request(operation, body))
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "flooding\n" { // each connection has had an answer
		s.Fatalf("flood says %q: %v: %s", line, err, complaint.String())
	}
	s.undo = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		var r callers.Result
		if err := json.NewDecoder(lines).Decode(&r); err != nil {
			s.Errorf("flood: %v", err)
		}
		if err := cmd.Wait(); err != nil {
			s.Errorf("flood: %v: %s", err, complaint.String())
		}
		s.note("%d calls of the flood, %d of them good, %d connections closed", r.Calls, r.OK, r.Closed)
	}
}

// gone is a client that is killed in the middle of CreateKey, again and again.
func gone(s *stage) {
	for range 20 {
		c, err := (&net.Dialer{}).DialContext(s.Context(), "unix", s.rig.Socket)
		if err != nil {
			s.Fatal(err)
		}
		_, _ = c.Write(request("CreateKey", "{}"))
		if err := c.Close(); err != nil {
			s.Error(err)
		}
	}
}

// altered decrypts a ciphertext with each bit changed, and is told so.
func altered(s *stage) {
	for i := range s.load.old {
		for bit := range 8 {
			if !long && bit != i%8 {
				continue
			}
			blob := bytes.Clone(s.load.old)
			blob[i] ^= 1 << bit
			_, err := s.client.Decrypt(s.Context(), &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: s.load.context})
			if code, status := codeOf(err); code != "InvalidCiphertextException" || status != 400 {
				s.Errorf("bit %d of byte %d changed: %v", bit, i, err)
			}
		}
	}
}

// strangeRecipients have RSA keys that nobody should encrypt to.
func strangeRecipients(s *stage) {
	n := new(big.Int).Lsh(big.NewInt(1), 2047)
	n.Add(n, big.NewInt(12345))
	id := s.load.keys[encrypts]
	for _, e := range []int{1, 2, 3, 1<<31 - 1, 1<<31 + 1, 1<<33 + 1} {
		der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: e})
		if err != nil {
			s.Fatal(err)
		}
		_, err = s.client.GenerateDataKey(s.Context(), &kms.GenerateDataKeyInput{
			KeyId: &id, KeySpec: types.DataKeySpecAes256,
			Recipient: &types.RecipientInfo{AttestationDocument: der, KeyEncryptionAlgorithm: "RSAES_OAEP_SHA_1"},
		})
		if code, status := codeOf(err); status >= 500 {
			s.Errorf("a recipient with e = %d: %d %s", e, status, code)
		}
	}
}

var clientRows = group{name: "clients", set: func(t *testing.T) setup {
	set := plain(t)
	set.World = true
	return set
}, rows: []row{
	{name: "malformed HTTP", quick: true, inject: malformed(wholeRequest), within: 5 * time.Second},
	{
		name: "malformed JSON", quick: true, inject: malformed(func(s *stage) ([]byte, int) {
			raw, _ := wholeRequest(s)
			return raw, bytes.Index(raw, []byte("\r\n\r\n")) + 4
		}), within: 5 * time.Second,
	},
	{name: "altered ciphertexts", quick: true, inject: altered, within: 5 * time.Second},
	{name: "strange recipients", quick: true, inject: strangeRecipients, within: 5 * time.Second},
	{name: "clients that send slowly", quick: true, inject: held(200, slowly), heal: undo, lasts: 2 * time.Second, within: 5 * time.Second},
	{name: "clients that never read", quick: true, inject: held(50, deaf), heal: undo, lasts: 2 * time.Second, within: 5 * time.Second},
	{name: "idle clients", quick: true, inject: held(1000, idle), heal: undo, lasts: time.Second, within: 5 * time.Second},
	{name: "clients gone in CreateKey", quick: true, inject: gone, within: 5 * time.Second},
	{name: "flood of calls by another user", quick: true, inject: flood, heal: undo, lasts: 3 * time.Second, within: 5 * time.Second},
}}
