package stream

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"cmkd/backends"
)

// TestFrameGolden pins the format: a plugin may be older than the daemon.
func TestFrameGolden(t *testing.T) {
	t.Parallel()
	f := Frame{ID: 0x0102030405060708, Kind: 6, Timeout: 5_000_000, Flow: Flow{1000, 6}, Body: []byte{0xa0}}
	const want = "00000013" + "0102030405060708" + "06" + "004c4b40" + "000003e8" + "06" + "a0"
	if got := hex.EncodeToString(AppendFrame(nil, f)); got != want {
		t.Errorf("appendFrame: %s, want %s", got, want)
	}
	var b bytes.Buffer
	if err := EncodeFrame(&b, f, struct{}{}); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(b.Bytes()); got != want {
		t.Errorf("encodeFrame: %s, want %s", got, want)
	}
}

func TestFramesThroughAnyReads(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	var want []Frame
	var stream []byte
	for i := range 300 {
		size := r.IntN(5000)
		if i%100 == 50 {
			size = 300_000 // larger than the buffer
		}
		f := Frame{ID: r.Uint64(), Kind: byte(i), Timeout: r.Uint32(), Flow: Flow{r.Uint32(), byte(i)}, Body: bytes.Repeat([]byte{byte(i + 1)}, size)}
		want = append(want, f)
		stream = AppendFrame(stream, f)
	}
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole":    func(r io.Reader) io.Reader { return r },
		"bytewise": iotest.OneByteReader,
		"halves":   iotest.HalfReader,
		"data+EOF": iotest.DataErrReader,
	} {
		fr := NewFrameReader(wrap(bytes.NewReader(stream)))
		for i, w := range want {
			f, err := fr.Next()
			if err != nil {
				t.Fatalf("%s: frame %d: %v", name, i, err)
			}
			if f.ID != w.ID || f.Kind != w.Kind || f.Timeout != w.Timeout || f.Flow != w.Flow || !bytes.Equal(f.Body, w.Body) {
				t.Fatalf("%s: frame %d differs", name, i)
			}
		}
		if _, err := fr.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: at the end: %v, want EOF", name, err)
		}
	}
}

func TestFrameReaderWipes(t *testing.T) {
	t.Parallel()
	secret := []byte("a secret that must not stay")
	stream := AppendFrame(nil, Frame{Body: secret})
	stream = AppendFrame(stream, Frame{Body: bytes.Repeat(secret, 10_000)}) // another buffer
	stream = AppendFrame(stream, Frame{Body: []byte("x")})
	fr := NewFrameReader(iotest.OneByteReader(bytes.NewReader(stream)))
	first := fr.buf
	for range 3 {
		if _, err := fr.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if bytes.Contains(first, secret) || bytes.Contains(fr.buf[:cap(fr.buf)], secret) {
		t.Error("a body that was handed out is still in a buffer")
	}
}

func TestFrameReaderRefuses(t *testing.T) {
	t.Parallel()
	whole := AppendFrame(nil, Frame{ID: 1, Body: []byte("body")})
	for name, stream := range map[string][]byte{
		"too long":  {0xff, 0xff, 0xff, 0xff, 0},
		"too short": {0, 0, 0, 17, 0},
		"cut":       whole[:len(whole)-1],
	} {
		if _, err := NewFrameReader(bytes.NewReader(stream)).Next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzFrameReader: whatever comes, the reader ends with an error, and the
// frames that it has found are, put together again, what came.
func FuzzFrameReader(f *testing.F) {
	f.Add(AppendFrame(AppendFrame(nil, Frame{ID: 1, Kind: 2, Body: []byte("abc")}), Frame{ID: 3}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 18})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewFrameReader(bytes.NewReader(stream))
		var again []byte
		for {
			fr, err := r.Next()
			if err != nil {
				break
			}
			again = AppendFrame(again, fr)
		}
		if !bytes.HasPrefix(stream, again) {
			t.Errorf("frames are not what came: %x of %x", again, stream)
		}
	})
}

// TestClassesAreFixed: a number stands for the same spec in every version.
func TestClassesAreFixed(t *testing.T) {
	t.Parallel()
	for spec, want := range map[backends.KeySpec]byte{
		backends.SymmetricDefault: 1, backends.RSA4096: 6, backends.P256: 7, backends.HMAC512: 15, backends.SM2: 22, "NONE": 0,
	} {
		if got := classOf(&backends.SignRequest{Key: backends.Key{Spec: spec}}); got != want {
			t.Errorf("%s has the number %d, want %d", spec, got, want)
		}
	}
	pair := &backends.GenerateDataKeyPairRequest{Key: backends.Key{Spec: backends.SymmetricDefault}, Spec: backends.RSA4096}
	if got := classOf(pair); got != 6 {
		t.Errorf("a data key pair has the class %d, not that of the pair", got)
	}
	if got := classOf(&backends.InfoRequest{}); got != 0 {
		t.Errorf("a request without a key has the class %d", got)
	}
	if f := FlowOf(t.Context(), &backends.InfoRequest{}); f.Caller != NoCaller {
		t.Errorf("a call of the daemon has the caller %d", f.Caller)
	}
	if f := FlowOf(backends.WithCaller(t.Context(), 0), &backends.InfoRequest{}); f.Caller != 0 {
		t.Errorf("a call of root has the caller %d", f.Caller)
	}
}
