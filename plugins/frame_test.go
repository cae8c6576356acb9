package plugins

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
	f := frame{id: 0x0102030405060708, kind: 6, timeout: 5_000_000, flow: flow{1000, 6}, body: []byte{0xa0}}
	const want = "00000013" + "0102030405060708" + "06" + "004c4b40" + "000003e8" + "06" + "a0"
	if got := hex.EncodeToString(appendFrame(nil, f)); got != want {
		t.Errorf("appendFrame: %s, want %s", got, want)
	}
	var b bytes.Buffer
	if err := encodeFrame(&b, f, struct{}{}); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(b.Bytes()); got != want {
		t.Errorf("encodeFrame: %s, want %s", got, want)
	}
}

func TestFramesThroughAnyReads(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	var want []frame
	var stream []byte
	for i := range 300 {
		size := r.IntN(5000)
		if i%100 == 50 {
			size = 300_000 // larger than the buffer
		}
		f := frame{id: r.Uint64(), kind: byte(i), timeout: r.Uint32(), flow: flow{r.Uint32(), byte(i)}, body: bytes.Repeat([]byte{byte(i + 1)}, size)}
		want = append(want, f)
		stream = appendFrame(stream, f)
	}
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole":    func(r io.Reader) io.Reader { return r },
		"bytewise": iotest.OneByteReader,
		"halves":   iotest.HalfReader,
		"data+EOF": iotest.DataErrReader,
	} {
		fr := newFrameReader(wrap(bytes.NewReader(stream)))
		for i, w := range want {
			f, err := fr.next()
			if err != nil {
				t.Fatalf("%s: frame %d: %v", name, i, err)
			}
			if f.id != w.id || f.kind != w.kind || f.timeout != w.timeout || f.flow != w.flow || !bytes.Equal(f.body, w.body) {
				t.Fatalf("%s: frame %d differs", name, i)
			}
		}
		if _, err := fr.next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: at the end: %v, want EOF", name, err)
		}
	}
}

func TestFrameReaderWipes(t *testing.T) {
	t.Parallel()
	secret := []byte("a secret that must not stay")
	stream := appendFrame(nil, frame{body: secret})
	stream = appendFrame(stream, frame{body: bytes.Repeat(secret, 10_000)}) // another buffer
	stream = appendFrame(stream, frame{body: []byte("x")})
	fr := newFrameReader(iotest.OneByteReader(bytes.NewReader(stream)))
	first := fr.buf
	for range 3 {
		if _, err := fr.next(); err != nil {
			t.Fatal(err)
		}
	}
	if bytes.Contains(first, secret) || bytes.Contains(fr.buf[:cap(fr.buf)], secret) {
		t.Error("a body that was handed out is still in a buffer")
	}
}

func TestFrameReaderRefuses(t *testing.T) {
	t.Parallel()
	whole := appendFrame(nil, frame{id: 1, body: []byte("body")})
	for name, stream := range map[string][]byte{
		"too long":  {0xff, 0xff, 0xff, 0xff, 0},
		"too short": {0, 0, 0, 17, 0},
		"cut":       whole[:len(whole)-1],
	} {
		if _, err := newFrameReader(bytes.NewReader(stream)).next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzFrameReader: whatever comes, the reader ends with an error, and the
// frames that it has found are, put together again, what came.
func FuzzFrameReader(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, frame{id: 1, kind: 2, body: []byte("abc")}), frame{id: 3}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 18})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := newFrameReader(bytes.NewReader(stream))
		var again []byte
		for {
			fr, err := r.next()
			if err != nil {
				break
			}
			again = appendFrame(again, fr)
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
	if f := flowOf(t.Context(), &backends.InfoRequest{}); f.caller != noCaller {
		t.Errorf("a call of the daemon has the caller %d", f.caller)
	}
	if f := flowOf(backends.WithCaller(t.Context(), 0), &backends.InfoRequest{}); f.caller != 0 {
		t.Errorf("a call of root has the caller %d", f.caller)
	}
}
