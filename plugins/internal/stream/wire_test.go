package stream

import (
	"bytes"
	"reflect"
	"testing"

	"cmkd/backends"
)

// listed are the messages that have a list in wire.go.
func listed(tb testing.TB) map[string]reflect.Type {
	tb.Helper()
	out := map[string]reflect.Type{}
	for name, typ := range messages() {
		if sizeOf(reflect.New(typ).Interface()) > 0 {
			out[name] = typ
		}
	}
	if len(out) != 12 {
		tb.Fatalf("%d messages have a list", len(out))
	}
	return out
}

// variants gives a message with every combination of its members set and not, those of
// members that are structs together.
func variants(typ reflect.Type, do func(message any)) {
	for set := range 1 << typ.NumField() {
		m, n := reflect.New(typ), 0
		for i := range typ.NumField() {
			if set&(1<<i) != 0 {
				fill(m.Elem().Field(i), &n)
			}
		}
		do(m.Interface())
	}
}

// TestListsAreOfTheStructs checks the lists against what the library makes of the structs:
// the same bytes, read back as the same message, and none with a byte more or less.
func TestListsAreOfTheStructs(t *testing.T) {
	t.Parallel()
	for name, typ := range listed(t) {
		variants(typ, func(in any) {
			want, err := Encoding.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := appendMessage(nil, in)
			if !ok || !bytes.Equal(got, want) {
				t.Fatalf("%s %+v:\n%x, want\n%x", name, in, got, want)
			}
			out := reflect.New(typ).Interface()
			if _, err := readMessage(got, out); err != nil || !reflect.DeepEqual(out, in) {
				t.Fatalf("%s %+v: read %+v, %v", name, in, out, err)
			}
			for cut := range got {
				if _, err := readMessage(got[:cut], reflect.New(typ).Interface()); err == nil {
					t.Fatalf("%s: %x is read without its end from %d", name, got, cut)
				}
			}
			if _, err := readMessage(append(got, 0), reflect.New(typ).Interface()); err == nil {
				t.Errorf("%s: a byte behind it is read over", name)
			}
		})
	}
}

// TestCopiesAreWiped: of an answer's secret there is no copy but the one that Wipe
// overwrites, and the answer keeps nothing of the buffer that it came in.
func TestCopiesAreWiped(t *testing.T) {
	t.Parallel()
	secret := []byte("a secret that must not stay")
	for _, in := range []any{
		&backends.DecryptAnswer{Plaintext: secret}, &backends.GenerateDataKeyAnswer{Plaintext: secret},
		&backends.OpenDataKeyAnswer{Plaintext: secret}, &backends.GenerateRandomAnswer{Plaintext: secret},
	} {
		wire, err := Encoding.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		out := reflect.New(reflect.TypeOf(in).Elem())
		if err := DecodeCopy(wire, out.Interface()); err != nil {
			t.Fatal(err)
		}
		clear(wire)
		kept := out.Elem().FieldByName("Plaintext").Bytes()
		if !bytes.Equal(kept, secret) {
			t.Errorf("%T keeps %q", in, kept)
		}
		Wipe(out.Interface())
		if !bytes.Equal(kept, make([]byte, len(kept))) {
			t.Errorf("%T is not wiped", in)
		}
	}
}

// FuzzLists reads anything: what is accepted is what would be written, and what the
// library reads as the same message.
func FuzzLists(f *testing.F) {
	var types []reflect.Type
	for _, m := range []any{
		backends.EncryptRequest{},
		backends.EncryptAnswer{},
		backends.DecryptRequest{},
		backends.DecryptAnswer{},
		backends.GenerateDataKeyRequest{},
		backends.GenerateDataKeyAnswer{},
		backends.OpenDataKeyRequest{},
		backends.OpenDataKeyAnswer{},
		backends.SignRequest{},
		backends.SignAnswer{},
		backends.MACRequest{},
		backends.MACAnswer{},
	} {
		types = append(types, reflect.TypeOf(m))
	}
	for i, typ := range types {
		m, n := reflect.New(typ), 0
		fill(m.Elem(), &n)
		b, _ := appendMessage(nil, m.Interface())
		f.Add(byte(i), b)
		b, _ = appendMessage(nil, reflect.New(typ).Interface())
		f.Add(byte(i), b)
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		typ := types[int(which)%len(types)]
		got, want := reflect.New(typ).Interface(), reflect.New(typ).Interface()
		if _, err := readMessage(b, got); err != nil {
			return
		}
		if err := Decoding.Unmarshal(b, want); err != nil {
			t.Fatalf("%x is read, the library says %v", b, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%x is read as %+v, want %+v", b, got, want)
		}
		if again, _ := appendMessage(nil, got); !bytes.Equal(again, b) {
			t.Fatalf("%x is written as %x", b, again)
		}
	})
}

// BenchmarkMessage is what a message of a call costs at one side.
func BenchmarkMessage(b *testing.B) {
	in := &backends.EncryptRequest{
		Key:       backends.Key{ID: backends.KeyID{1}, Spec: backends.SymmetricDefault, Usage: backends.EncryptDecrypt},
		Algorithm: "SYMMETRIC_DEFAULT", Plaintext: make([]byte, 32), AAD: make([]byte, 72),
	}
	for name, codec := range map[string]struct {
		write func(*bytes.Buffer) error
		read  func([]byte, any) error
	}{
		"list": {func(b *bytes.Buffer) error { ReserveFor(b, in); return Encode(b, in) }, decode},
		"library": {func(b *bytes.Buffer) error {
			reserve(b, sizeOfValue(reflect.ValueOf(in)))
			return Encoding.MarshalToBuffer(in, b)
		}, Decoding.Unmarshal},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var buf bytes.Buffer
			var out backends.EncryptRequest
			for b.Loop() {
				buf.Reset()
				if err := codec.write(&buf); err != nil {
					b.Fatal(err)
				}
				out = backends.EncryptRequest{}
				if err := codec.read(buf.Bytes(), &out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
