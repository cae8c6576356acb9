package envelope

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// rawAES is the raw AES keyring of the AWS Encryption SDK: data keys under one
// AES-256 key.
// https://docs.aws.amazon.com/encryption-sdk/latest/developer-guide/use-raw-aes-keyring.html
type rawAES struct {
	namespace, name string
	key             []byte
}

func (k *rawAES) gcm() cipher.AEAD {
	block, err := aes.NewCipher(k.key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// info is the name of the key, the length of tags in bits and of IVs in bytes, and
// the IV.
func (k *rawAES) info(iv []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte(k.name), 8*tagLen)
	return append(binary.BigEndian.AppendUint32(b, ivLen), iv...)
}

func (k *rawAES) Generate(_ context.Context, n int, ec map[string]string) ([]byte, []EncryptedDataKey, error) {
	key, iv := make([]byte, n), make([]byte, ivLen)
	_, _ = rand.Read(key)
	_, _ = rand.Read(iv)
	aad, err := appendContext(nil, ec)
	if err != nil {
		return nil, nil, err
	}
	return key, []EncryptedDataKey{{k.namespace, k.info(iv), k.gcm().Seal(nil, iv, key, aad)}}, nil
}

func (k *rawAES) Decrypt(_ context.Context, keys []EncryptedDataKey, _ int, ec map[string]string) ([]byte, error) {
	aad, err := appendContext(nil, ec)
	if err != nil {
		return nil, err
	}
	for _, e := range keys {
		if n := len(e.Info) - ivLen; e.Provider == k.namespace && n > 0 && bytes.Equal(e.Info, k.info(e.Info[n:])) {
			return k.gcm().Open(nil, e.Info[n:], e.Ciphertext, aad)
		}
	}
	return nil, ErrNoKey
}

func testKeyring() *rawAES {
	return &rawAES{"cmkd tests", "first", bytes.Repeat([]byte{7}, 32)}
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func seal(t *testing.T, plain []byte, o Options) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(t.Context(), &out, testKeyring(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.ReadFrom(iotest.HalfReader(bytes.NewReader(plain))); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func open(ctx context.Context, src io.Reader, o Options) ([]byte, error) {
	r, err := NewReader(ctx, src, testKeyring(), o)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// TestRoundTrip: around the seams of frames and chunks.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, suite := range []Suite{Committed, Signed} {
		for _, frame := range []int{1, 4096, DefaultFrameLen, 2 << 20} {
			sizes := []int{0, 1, frame - 1, frame, frame + 1, 2*chunkLen + frame/2}
			if frame == 1 {
				sizes = []int{0, 1, 2, 5000}
			}
			for _, n := range sizes {
				plain := random(n)
				o := Options{Suite: suite, FrameLen: frame, Context: map[string]string{"purpose": "test", "Ünïcode": "✓"}}
				sealed := seal(t, plain, o)
				for name, src := range map[string]io.Reader{"all": bytes.NewReader(sealed), "bits": iotest.HalfReader(bytes.NewReader(sealed)), "with EOF": iotest.DataErrReader(bytes.NewReader(sealed))} {
					if got, err := open(t.Context(), src, Options{Context: map[string]string{"purpose": "test"}}); err != nil || !bytes.Equal(got, plain) {
						t.Fatalf("%s, frames of %d, %d bytes, read %s: %d bytes, %v", suite, frame, n, name, len(got), err)
					}
				}
			}
		}
	}
}

// TestAltered: every bit of a message, and every length that is not all of it.
func TestAltered(t *testing.T) {
	t.Parallel()
	for _, suite := range []Suite{Committed, Signed} {
		plain := random(35)
		sealed := seal(t, plain, Options{Suite: suite, FrameLen: 10, Context: map[string]string{"a": "b"}})
		for bit := range 8 * len(sealed) {
			if suite == Signed && bit%9 != 0 { // a bit of each byte: signatures take long
				continue
			}
			altered := bytes.Clone(sealed)
			altered[bit/8] ^= 1 << (bit % 8)
			if got, err := open(t.Context(), bytes.NewReader(altered), Options{AllowUncommitted: true}); err == nil || !bytes.HasPrefix(plain, got) {
				t.Fatalf("%s: bit %d altered: %d bytes, %v", suite, bit, len(got), err)
			}
		}
		for n := range sealed {
			if got, err := open(t.Context(), bytes.NewReader(sealed[:n]), Options{}); !errors.Is(err, ErrInvalid) || !bytes.HasPrefix(plain, got) {
				t.Fatalf("%s: cut to %d: %d bytes, %v", suite, n, len(got), err)
			}
		}
		if _, err := open(t.Context(), bytes.NewReader(append(sealed, 0)), Options{}); !errors.Is(err, ErrInvalid) {
			t.Fatalf("%s: a byte more: %v", suite, err)
		}
	}
}

func TestMovedFrames(t *testing.T) {
	t.Parallel()
	const n, frame = 10, 10 + frameOverhead
	sealed := seal(t, random(5*n), Options{FrameLen: n})
	begin := len(sealed) - finalHead - tagLen - 5*frame
	at := func(i int) []byte { return sealed[begin+i*frame : begin+(i+1)*frame] }
	swapped := append(append(append(bytes.Clone(sealed[:begin]), at(1)...), at(0)...), sealed[begin+2*frame:]...)
	left := append(bytes.Clone(sealed[:begin+frame]), sealed[begin+2*frame:]...)
	twice := append(append(bytes.Clone(sealed[:begin+frame]), at(0)...), sealed[begin+frame:]...)
	// With its number put right the frame's tag is wrong.
	renumbered := bytes.Clone(left)
	renumbered[begin+frame+3] = 2
	for name, b := range map[string][]byte{"swapped": swapped, "left out": left, "twice": twice, "renumbered": renumbered} {
		if _, err := open(t.Context(), bytes.NewReader(b), Options{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestContextIsDemanded(t *testing.T) {
	t.Parallel()
	sealed := seal(t, random(10), Options{Context: map[string]string{"a": "b"}})
	for _, demand := range []map[string]string{{"a": "c"}, {"b": "b"}, {"a": "b", "c": ""}} {
		if _, err := open(t.Context(), bytes.NewReader(sealed), Options{Context: demand}); !errors.Is(err, ErrContext) {
			t.Errorf("%v: %v", demand, err)
		}
	}
}

var errBroken = errors.New("broken")

// TestErrorsOfBothEnds: those of source and destination come through.
func TestErrorsOfBothEnds(t *testing.T) {
	t.Parallel()
	sealed := seal(t, random(3*chunkLen), Options{})
	for _, at := range []int64{0, 1, 100, 300, 70000, 2 * chunkLen, int64(len(sealed))} {
		src := io.MultiReader(io.LimitReader(bytes.NewReader(sealed), at), iotest.ErrReader(errBroken))
		if _, err := open(t.Context(), src, Options{}); !errors.Is(err, errBroken) || errors.Is(err, ErrInvalid) {
			t.Errorf("source broke at %d: %v", at, err)
		}
	}
	for _, at := range []int{1, 2, 3} {
		w, err := NewWriter(t.Context(), &failing{after: at}, testKeyring(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, errWrite := w.Write(random(20 * chunkLen))
		if err := w.Close(); !errors.Is(err, errBroken) || errWrite != nil && !errors.Is(errWrite, errBroken) {
			t.Errorf("destination broke after %d writes: %v, %v", at, errWrite, err)
		}
		if _, err := w.Write([]byte{1}); err == nil {
			t.Error("written after Close")
		}
	}
}

type failing struct{ after int }

func (f *failing) Write(p []byte) (int, error) {
	if f.after--; f.after < 0 {
		return 0, errBroken
	}
	return len(p), nil
}

// TestGivenUp: a message whose context ended is not complete, whatever Close does.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	w, err := NewWriter(ctx, &out, testKeyring(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(random(100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := w.Close(); !errors.Is(err, context.Canceled) {
		t.Errorf("Close: %v", err)
	}
	if _, err := open(t.Context(), &out, Options{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("opened: %v", err)
	}

	sealed := seal(t, random(20*chunkLen), Options{})
	ctx, cancel = context.WithCancel(t.Context())
	r, err := NewReader(ctx, bytes.NewReader(sealed), testKeyring(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cancel()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
		t.Errorf("reading: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	for _, suite := range []Suite{Committed, Signed} {
		var out bytes.Buffer
		w, err := NewWriter(f.Context(), &out, testKeyring(), Options{Suite: suite, FrameLen: 5})
		if err != nil {
			f.Fatal(err)
		}
		_, _ = w.Write([]byte("some content"))
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(out.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := ReadHeader(bytes.NewReader(b)); err == nil && h.Version == 2 && h.FrameLen > 0 {
			again, err := h.append(nil)
			if err != nil || !bytes.Equal(again, h.raw) && len(h.Context) < 2 {
				t.Fatalf("the header %x is written as %x, %v", h.raw, again, err)
			}
		}
		_, _ = open(t.Context(), bytes.NewReader(b), Options{AllowUncommitted: true})
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, suite := range []Suite{Committed, Signed} {
		b.Run(suite.String(), func(b *testing.B) {
			const n = 64 << 20
			src := make([]byte, n)
			b.SetBytes(n)
			for b.Loop() {
				w, err := NewWriter(b.Context(), io.Discard, testKeyring(), Options{Suite: suite})
				if err != nil {
					b.Fatal(err)
				}
				_, _ = w.ReadFrom(bytes.NewReader(src))
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, suite := range []Suite{Committed, Signed} {
		b.Run(suite.String(), func(b *testing.B) {
			const n = 64 << 20
			var sealed bytes.Buffer
			w, err := NewWriter(b.Context(), &sealed, testKeyring(), Options{Suite: suite})
			if err != nil {
				b.Fatal(err)
			}
			_, _ = w.Write(make([]byte, n))
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(n)
			for b.Loop() {
				r, err := NewReader(b.Context(), bytes.NewReader(sealed.Bytes()), testKeyring(), Options{})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := r.WriteTo(io.Discard); err != nil {
					b.Fatal(err)
				}
				_ = r.Close()
			}
		})
	}
}
