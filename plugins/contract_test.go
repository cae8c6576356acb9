package plugins

import (
	"bytes"
	"reflect"
	"testing"
	random "testing/quick"

	"cmkd/plugins/internal/stream"
)

// TestConfigCrosses: what a plugin is given arrives as it was sent.
func TestConfigCrosses(t *testing.T) {
	t.Parallel()
	if err := random.Check(func(c Config) bool {
		c.Sandbox.Network = true // else one without anything in it is left out
		var b, again bytes.Buffer
		if err := stream.Encoding.MarshalToBuffer(&c, &b); err != nil {
			t.Fatal(err)
		}
		var got Config
		if err := stream.Decoding.Unmarshal(b.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if err := stream.Encoding.MarshalToBuffer(&got, &again); err != nil {
			t.Fatal(err)
		}
		return bytes.Equal(b.Bytes(), again.Bytes()) && got.Module == c.Module && reflect.DeepEqual(got.Workers, c.Workers)
	}, nil); err != nil {
		t.Error(err)
	}
}

// FuzzServe: no request makes a row panic; it is refused or reaches the
// backend, here a Host that was closed before it began.
func FuzzServe(f *testing.F) {
	f.Add(byte(6), []byte{0xa1, 0x03, 0x41, 0x01})
	f.Add(byte(1), []byte{0xa0})
	closed := &Host{traffic: newTraffic()}
	closed.Calls = Calls{closed}
	closed.state.Store(&state{phase: Closed, spec: &Spec{}, err: errClosed})
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		r := stream.Rows[kind]
		if r == nil {
			return
		}
		if _, err := r.Serve(t.Context(), closed, body); err == nil {
			t.Errorf("%s was answered", r.Name)
		}
	})
}
