package operatorapi

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"testing"
	"time"
)

// fill gives everything in v a value: texts the name of their member.
func fill(v reflect.Value, name string) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), name)
	case reflect.String:
		v.SetString(name)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint64:
		v.SetUint(1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), name)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, name)
		fill(value, name)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		if at, ok := v.Addr().Interface().(*time.Time); ok {
			*at = time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), v.Type().Field(i).Name)
		}
	default:
		panic(v.Kind())
	}
}

// wire adds what an endpoint is sent and answers to the text, with nothing in it and
// with everything.
func wire[In, Out any](t *testing.T, to *bytes.Buffer, e Endpoint[In, Out]) {
	t.Helper()
	for _, c := range []struct {
		name  string
		value reflect.Value
	}{{e.Name + " request", reflect.ValueOf(new(In))}, {e.Name, reflect.ValueOf(new(Out))}} {
		if c.value.Type() == reflect.TypeFor[*None]() {
			continue
		}
		enc := json.NewEncoder(to)
		enc.SetIndent("", "  ")
		for _, state := range []string{"empty", "full"} {
			to.WriteString("-- " + c.name + ", " + state + " --\n")
			if state == "full" {
				fill(c.value.Elem(), "")
			}
			if err := enc.Encode(c.value.Interface()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestWire: scripts and programs of other versions read these members, so they keep
// their names, order and manner of being left out. The audit trail has the requests.
func TestWire(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	wire(t, &got, Status)
	wire(t, &got, ConfirmClock)
	wire(t, &got, AcceptState)
	wire(t, &got, VerifyTrail)
	wire(t, &got, PruneTrail)
	wire(t, &got, Endpoint[TrailQuery, None]{Name: ReadTrail.Name})
	wire(t, &got, Reload)
	wire(t, &got, Recover)
	wire(t, &got, ExplainPolicy)
	wire(t, &got, WhoMay)
	wire(t, &got, CheckPolicy)
	wire(t, &got, MakeKeyPolicy)
	wire(t, &got, Recipient)
	wire(t, &got, VerifyBackup)
	wire(t, &got, Endpoint[None, RestorePlan]{Name: "cmkd -restore"})
	want, err := os.ReadFile("testdata/wire.golden")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got.Bytes(), want) {
		return
	}
	gotLines, wantLines := bytes.Split(got.Bytes(), []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range min(len(gotLines), len(wantLines)) {
		if !bytes.Equal(gotLines[i], wantLines[i]) {
			t.Fatalf("line %d of testdata/wire.golden: got %s, want %s", i+1, gotLines[i], wantLines[i])
		}
	}
	t.Fatalf("%d lines, want the %d of testdata/wire.golden:\n%s", len(gotLines), len(wantLines), got.Bytes())
}
