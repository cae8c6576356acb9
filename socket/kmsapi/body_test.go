package kmsapi

import (
	"bytes"
	"net/http/httptest"
	"testing"
)

// TestBodyIsWiped looks at the memory behind a body: it may have held plaintext.
func TestBodyIsWiped(t *testing.T) {
	t.Parallel()
	secret := bytes.Repeat([]byte("secret"), 1000)
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/", bytes.NewReader(secret))
	body, err := readBody(httptest.NewRecorder(), r)
	if err != nil {
		t.Fatal(err)
	}
	memory := body.b
	if !bytes.Equal(memory, secret) {
		t.Fatal("read something else")
	}
	body.wipe()
	if bytes.Contains(memory, []byte("secret")) {
		t.Error("the body is still there")
	}
}

// TestDecoderForgets looks at what a decoder keeps when it goes back to the pool.
func TestDecoderForgets(t *testing.T) {
	t.Parallel()
	d := new(decoder)
	d.scratch = append(d.scratch, "c2VjcmV0"...)
	scratch := d.scratch
	d.src = *bytes.NewBufferString("secret")
	d.name, d.err = []byte("secret"), &Error{}
	d.faults.add("secret", "secret", "secret")
	d.forget() // not release: in the pool, d would be another test's
	if d.src.Len() != 0 || d.name != nil || d.err != nil || d.faults.count != 0 || d.faults.text != nil {
		t.Errorf("kept %+v", d)
	}
	if !bytes.Equal(scratch, make([]byte, len(scratch))) {
		t.Error("an unescaped string is still there")
	}
}
