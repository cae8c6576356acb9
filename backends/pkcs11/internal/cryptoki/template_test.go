package cryptoki

import (
	"bytes"
	"slices"
	"testing"
)

// TestQuery reads a template back as the answer to a query: both have the same
// form, and a module only writes values and lengths.
func TestQuery(t *testing.T) {
	t.Parallel()
	const flag, number, list, blob, absent, long, missing = 1, 2, 3, 4, 5, 6, 7
	var q Query
	q.AskBool(flag)
	q.AskULong(number)
	q.AskULongs(list, 3)
	q.Ask(blob, 5)
	q.Ask(absent, 9)
	q.Ask(long, 2)
	answer := func(attribute, length uint, value []byte) {
		for _, f := range q.fields {
			if f.attribute == attribute {
				AppendULong(q.records[f.at-ulong:f.at-ulong], length)
				copy(q.records[f.at:f.at+f.room], value)
			}
		}
	}
	for range 2 {
		answer(flag, 1, []byte{1})
		answer(number, uint(ulong), AppendULong(nil, 77))
		answer(list, uint(2*ulong), AppendULong(AppendULong(nil, 8), 9))
		answer(blob, 3, []byte("abc"))
		answer(absent, Unavailable, nil)
		answer(long, 3, nil)
		if v, ok := q.Bool(flag); !ok || !v {
			t.Error("flag", v, ok)
		}
		if v, ok := q.ULong(number); !ok || v != 77 {
			t.Error("number", v, ok)
		}
		if v, ok := q.ULongs(list); !ok || !slices.Equal(v, []uint{8, 9}) {
			t.Error("list", v, ok)
		}
		if v, ok := q.Value(blob); !ok || string(v) != "abc" {
			t.Error("blob", v, ok)
		}
		for name, attribute := range map[string]uint{"absent": absent, "longer than asked for": long, "not asked for": missing} {
			if v, ok := q.Value(attribute); ok {
				t.Errorf("an attribute that is %s is %x", name, v)
			}
		}
		q.Reset()
		if v, ok := q.Value(blob); !ok || !bytes.Equal(v, make([]byte, 5)) {
			t.Error("after Reset the blob is", v, ok)
		}
	}
}

// TestTemplate walks the records as attributes() in cryptoki.c does.
func TestTemplate(t *testing.T) {
	t.Parallel()
	template := Template(nil).Bool(1, true).Bool(2, false).ULong(3, 300).Bytes(4, []byte("123456789")).Bytes(5, nil).ULongs(6, 1, 2)
	want := map[uint][]byte{
		1: {1},
		2: {0},
		3: AppendULong(nil, 300),
		4: []byte("123456789"),
		5: {},
		6: AppendULong(AppendULong(nil, 1), 2),
	}
	for len(template) > 0 {
		attribute, n := uLong(template), int(uLong(template[ulong:]))
		value := template[2*ulong : 2*ulong+n]
		if !bytes.Equal(value, want[attribute]) {
			t.Errorf("attribute %d is %x, not %x", attribute, value, want[attribute])
		}
		delete(want, attribute)
		template = template[2*ulong+n+padding(n):]
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}
