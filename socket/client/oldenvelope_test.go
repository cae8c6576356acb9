package client

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"cmkd/socket/client/envelope"
)

// sealOld makes an envelope of the format before, version 1 or 2, with a data key of
// the service.
func sealOld(t *testing.T, s *service, version byte, plaintext []byte, ec map[string]string) []byte {
	t.Helper()
	key := random(32)
	aad, err := json.Marshal(ec)
	if err != nil {
		t.Fatal(err)
	}
	blob := s.aead.Seal(nil, nil, key, aad)
	header := append([]byte(envelopeMagic), version)
	if version == 2 {
		header = append(append(header, byte(len("eu-west-1"))), "eu-west-1"...)
	}
	header = append(binary.BigEndian.AppendUint16(header, uint16(len(blob))), blob...)
	stream, err := newStream(key)
	if err != nil {
		t.Fatal(err)
	}
	out := bytes.NewBuffer(bytes.Clone(header))
	w, err := stream.NewEncryptingWriter(out, header)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plaintext); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestOpenOld(t *testing.T) {
	t.Parallel()
	s := newService()
	c := newTestClient(t, s)
	ec := map[string]string{"purpose": "test", "Ünïcode": "✓"}
	// Around the seams of the segments, of which the first holds 40 bytes less.
	for _, n := range []int{0, 1, 1000, 65480, 65481, 131000, 131016, 131017, 300000} {
		plaintext := random(n)
		sealed := sealOld(t, s, 2, plaintext, ec)
		opened, err := c.Open(t.Context(), "alias/x", sealed, ec)
		if err != nil || !bytes.Equal(opened, plaintext) {
			t.Fatalf("%d bytes: %d, %v", n, len(opened), err)
		}
		if _, err := c.Open(t.Context(), "", sealed, map[string]string{"purpose": "other"}); code(err) != "InvalidCiphertextException" {
			t.Errorf("other context: %v", err)
		}
	}
}

func TestAlteredOldEnvelopes(t *testing.T) {
	t.Parallel()
	s := newService()
	c := newTestClient(t, s)
	const n = 150000
	sealed := sealOld(t, s, 2, random(n), nil)
	open := func(name string, e []byte) {
		t.Helper()
		p, err := c.Open(t.Context(), "", e, nil)
		if !errors.Is(err, ErrEnvelope) && code(err) != "InvalidCiphertextException" {
			t.Errorf("%s: %d bytes, %v", name, len(p), err)
		}
	}
	header := len(envelopeMagic) + 2 + len("eu-west-1") + 2 + 32 + 28
	for _, i := range []int{0, 3, 4, 5, 6, 7, header - 1, header, header + 1, header + 35, header + 40, header + 41, 65536, 70000, 131072 + header, len(sealed) - 1} {
		open("flipped", flip(sealed, i))
	}
	for _, i := range []int{0, 1, 4, 6, 7, 50, header, header + 1, header + 33, header + 40, header + 41, header + 65536, header + 2*65536, len(sealed) - 17, len(sealed) - 16, len(sealed) - 1} {
		open("cut", sealed[:i])
	}
	open("longer", append(bytes.Clone(sealed), 0))
	other := sealOld(t, s, 2, random(n), nil)
	open("data of another", append(bytes.Clone(sealed[:header]), other[header:]...))
	if _, err := c.Open(t.Context(), "", flip(sealed, 4), nil); err == nil || !strings.Contains(err.Error(), "version 3") {
		t.Errorf("version: %v", err)
	}
}

func TestErrorOfReaderStays(t *testing.T) {
	t.Parallel()
	s := newService()
	c := newTestClient(t, s)
	sealed := sealOld(t, s, 2, random(10), nil)
	r, err := c.OpenReader(t.Context(), bytes.NewReader(flip(sealed, len(sealed)-1)), "", envelope.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if n, err := r.Read(make([]byte, 100)); n != 0 || !errors.Is(err, ErrEnvelope) {
			t.Fatalf("read %d, %v", n, err)
		}
	}
}

func TestErrorsOfSourceAndDestinationAreTold(t *testing.T) {
	t.Parallel()
	s := newService()
	c := newTestClient(t, s)
	sealed := sealOld(t, s, 2, random(1<<20), nil)
	broken := errors.New("broken pipe")
	for _, at := range []int64{3, 20, 80, 100, 1000, 1 << 19} {
		src := io.MultiReader(io.LimitReader(bytes.NewReader(sealed), at), iotest.ErrReader(broken))
		r, err := c.OpenReader(t.Context(), src, "", envelope.Options{})
		if err == nil {
			_, err = io.ReadAll(r)
		}
		if !errors.Is(err, broken) || errors.Is(err, ErrEnvelope) {
			t.Errorf("source broke at %d: %v", at, err)
		}
	}
}

// TestGoldenEnvelope opens envelopes made in the past: the format may not change
// under a version.
func TestGoldenEnvelope(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ file, region string }{
		{"testdata/envelope-v1.b64", ""},
		{"testdata/envelope-v2.b64", "eu-west-1"},
	} {
		t.Run(c.file, func(t *testing.T) { openGolden(t, c.file, c.region) })
	}
}

func openGolden(t *testing.T, file, region string) {
	encoded, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(encoded)))
	if err != nil {
		t.Fatal(err)
	}
	header, err := readHeader(bytes.NewReader(envelope))
	if err != nil {
		t.Fatal(err)
	}
	if string(header.dataKey) != "the encrypted data key" || header.region != region {
		t.Errorf("data key %q, Region %q", header.dataKey, header.region)
	}
	stream, err := newStream(goldenKey)
	if err != nil {
		t.Fatal(err)
	}
	r, err := stream.NewDecryptingReader(bytes.NewReader(envelope[len(header.raw):]), header.raw)
	if err != nil {
		t.Fatal(err)
	}
	plaintext, err := io.ReadAll(r)
	if err != nil || string(plaintext) != "the plaintext" {
		t.Errorf("%q, %v", plaintext, err)
	}
}

var goldenKey = bytes.Repeat([]byte{0x2a}, 32)

func FuzzReadHeader(f *testing.F) {
	f.Add([]byte("cmke\x01\x00\x03keyrest"))
	f.Add([]byte("cmke\x02\x09us-east-1\x00\x03keyrest"))
	f.Fuzz(func(t *testing.T, b []byte) {
		header, err := readHeader(bytes.NewReader(b))
		if err == nil && (!bytes.HasPrefix(b, header.raw) || !bytes.HasSuffix(header.raw, header.dataKey)) {
			t.Errorf("header %x of %x", header.raw, b)
		}
	})
}
