package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"cmkd/backends"
)

// contract are the interfaces whose methods are the rows.
var contract = []reflect.Type{
	reflect.TypeFor[backends.Backend](), reflect.TypeFor[backends.Cipher](), reflect.TypeFor[backends.ReEncrypter](),
	reflect.TypeFor[backends.DataKeyMaker](), reflect.TypeFor[backends.Randomizer](), reflect.TypeFor[backends.Signer](),
	reflect.TypeFor[backends.MACer](), reflect.TypeFor[backends.Agreer](), reflect.TypeFor[backends.Importer](),
	reflect.TypeFor[backends.Encapsulator](),
}

// messages are the structs of package backends that their methods take and answer.
func messages() map[string]reflect.Type {
	out := map[string]reflect.Type{"wireError": reflect.TypeFor[WireError]()}
	for _, i := range contract {
		for m := range i.Methods() {
			for _, t := range []reflect.Type{m.Type.In(1).Elem(), m.Type.Out(0).Elem()} {
				out[t.Name()] = t
			}
		}
	}
	return out
}

// fill gives every field of v a value that is not zero.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint:
		v.SetUint(uint64(*n))
	case reflect.Uint8:
		v.SetUint(uint64(*n%255 + 1))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 3, 3))
		for i := range 3 {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("one"), reflect.ValueOf("1"))
		v.SetMapIndex(reflect.ValueOf("two"), reflect.ValueOf("2"))
	default:
		panic("a message has a " + v.Kind().String())
	}
}

// TestEveryMessageCrosses encodes each struct of the contract with every field
// set and compares what is decoded.
func TestEveryMessageCrosses(t *testing.T) {
	t.Parallel()
	all := messages()
	if len(all) < 30 {
		t.Fatalf("only %d messages", len(all))
	}
	for name, typ := range all {
		in, n := reflect.New(typ), 0
		fill(in.Elem(), &n)
		var b, again bytes.Buffer
		if err := Encoding.MarshalToBuffer(in.Interface(), &b); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		out := reflect.New(typ)
		if err := Decoding.Unmarshal(b.Bytes(), out.Interface()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wire := bytes.Clone(b.Bytes())
		clear(b.Bytes()) // as the buffers of the boundary are
		if !reflect.DeepEqual(in.Interface(), out.Interface()) {
			t.Errorf("%s: %+v became %+v", name, in.Elem(), out.Elem())
		}
		if err := Encoding.MarshalToBuffer(out.Interface(), &again); err != nil || !bytes.Equal(wire, again.Bytes()) {
			t.Errorf("%s: the encoding is not deterministic (%v)", name, err)
		}
	}
}

// TestEveryMethodHasARow checks the rows against the interfaces.
func TestEveryMethodHasARow(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for id, r := range Rows {
		if r != nil {
			if int(r.ID) != id {
				t.Errorf("%s has the number %d in place %d", r.Name, r.ID, id)
			}
			names[r.Name] = true
		}
	}
	n := 0
	for _, i := range contract {
		for k := range i.NumMethod() {
			n++
			if m := i.Method(k).Name; !names[m] {
				t.Errorf("%s.%s has no row", i.Name(), m)
			}
		}
	}
	if n != len(names) {
		t.Errorf("%d rows for %d methods", len(names), n)
	}
}

func TestDecodingIsStrict(t *testing.T) {
	t.Parallel()
	for name, b := range map[string][]byte{
		"unknown key":      {0xa1, 0x18, 0x63, 0x01},
		"duplicate key":    {0xa2, 0x02, 0x61, 'a', 0x02, 0x61, 'b'},
		"wrong type":       {0xa1, 0x02, 0x01},
		"indefinite":       {0xbf, 0xff},
		"tag":              {0xc1, 0xa0},
		"trailing":         {0xa0, 0xa0},
		"bad UTF-8":        {0xa1, 0x02, 0x61, 0xff},
		"truncated":        {0xa1, 0x02},
		"no map":           {0x80},
		"claims 4 G bytes": {0xa1, 0x03, 0x5a, 0xff, 0xff, 0xff, 0xff},
	} {
		var out backends.EncryptRequest
		if err := Decoding.Unmarshal(b, &out); err == nil {
			t.Errorf("%s: decoded to %+v", name, out)
		}
	}
}

func TestErrorsCross(t *testing.T) {
	t.Parallel()
	typed := &backends.Error{Code: backends.TokenFull, Message: "no room", RV: 0x31, Unsure: true}
	for name, c := range map[string]struct {
		err  error
		want backends.Error
	}{
		"typed":    {typed, *typed},
		"wrapped":  {fmt.Errorf("creating a key: %w", typed), *typed},
		"deadline": {fmt.Errorf("waiting: %w", context.DeadlineExceeded), backends.Error{Code: backends.Timeout, Message: "the deadline has passed"}},
		"untyped":  {errors.New("PIN 1234 refused"), backends.Error{Code: backends.Internal, Message: "the backend failed without saying how"}},
	} {
		if got := *ToWire(c.err).Err(); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		if strings.Contains(ToWire(c.err).Message, "1234") {
			t.Errorf("%s: the text of an untyped error gets out", name)
		}
	}
}
