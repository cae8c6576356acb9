package stream

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"cmkd/backends"
)

// public are the members of messages that hold bytes and are not secret: what is
// encrypted, signed or wrapped, and what anybody may see.
var public = []string{
	"AAD", "CheckValue", "Ciphertext", "DestinationAAD", "ForRecipient", "IV", "MAC", "Material", "PublicKey", "Sealed", "Signature", "SourceAAD",
}

// TestSecretsAreWiped fills each message of the contract: Wipe overwrites every member
// with bytes that is not known to be public, and no other.
func TestSecretsAreWiped(t *testing.T) {
	t.Parallel()
	secrets := 0
	for name, typ := range messages() {
		m, n := reflect.New(typ), 0
		fill(m.Elem(), &n)
		Wipe(m.Interface())
		for i := range typ.NumField() {
			b, ok := m.Elem().Field(i).Interface().([]byte)
			if !ok {
				continue
			}
			field := typ.Field(i).Name
			wiped := bytes.Equal(b, make([]byte, len(b)))
			if wiped == slices.Contains(public, field) {
				t.Errorf("%s.%s: wiped %t", name, field, wiped)
			}
			if wiped {
				secrets++
			}
		}
	}
	if secrets != 12 {
		t.Errorf("%d members are secret", secrets)
	}
}

// TestMessagesHaveRoom: the frame of a message fits into what is reserved for it, however
// long its members are, so that no buffer grows with a secret in it.
func TestMessagesHaveRoom(t *testing.T) {
	t.Parallel()
	for name, typ := range messages() {
		for _, size := range []int{0, 1, 23, 24, 255, 256, 4096, 70_000} {
			m, n := reflect.New(typ), 0
			fill(m.Elem(), &n)
			for i := range typ.NumField() {
				switch f := m.Elem().Field(i); {
				case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Uint8:
					f.SetBytes(make([]byte, size))
				case f.Kind() == reflect.Int:
					f.SetInt(1 << 40)
				}
			}
			b := bytes.NewBufferString("a frame before it")
			ReserveFor(b, m.Interface())
			room := b.Cap()
			if err := EncodeFrame(b, Frame{}, m.Interface()); err != nil {
				t.Fatal(err)
			}
			if b.Cap() != room {
				t.Errorf("%s with members of %d bytes takes %d, %d are reserved", name, size, b.Len(), room)
			}
		}
	}
}

// TestBatchesMove: a batch that outgrows its buffer leaves nothing behind.
func TestBatchesMove(t *testing.T) {
	t.Parallel()
	secret := []byte("a secret that must not stay")
	batch := AppendFrame(make([]byte, 0, 60), Frame{Body: secret})
	first := batch[:cap(batch)]
	AppendFrame(batch, Frame{Body: secret})
	if bytes.Contains(first, secret) {
		t.Error("the batch is still in the buffer that it has left")
	}
	var b bytes.Buffer
	if err := EncodeFrame(&b, Frame{}, &backends.DecryptAnswer{Plaintext: secret}); err != nil {
		t.Fatal(err)
	}
	for name, next := range map[string]any{
		"a secret": &backends.DecryptAnswer{Plaintext: make([]byte, 100)}, "a ciphertext": &backends.EncryptAnswer{Sealed: backends.Sealed{Ciphertext: make([]byte, 2000)}},
		"a list": &backends.ListKeysAnswer{Objects: make([]backends.Object, 100)}, "an error": WireError{Message: "what went wrong"},
	} {
		b.Reset()
		if err := EncodeFrame(&b, Frame{}, &backends.DecryptAnswer{Plaintext: secret}); err != nil {
			t.Fatal(err)
		}
		first = b.Bytes()
		for room := b.Cap(); b.Cap() == room; {
			if err := EncodeFrame(&b, Frame{}, next); err != nil {
				t.Fatal(err)
			}
		}
		if bytes.Contains(first, secret) || !bytes.Contains(b.Bytes(), secret) {
			t.Errorf("a batch that grows with %s is still in the buffer that it has left", name)
		}
	}
}
