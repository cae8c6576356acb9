package envelope

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
)

type vector struct {
	Suite               Suite
	FrameLength, Repeat int
	Message             []byte
}

// readVectors returns those of testdata/README.md.
func readVectors(t *testing.T) []vector {
	t.Helper()
	b, err := os.ReadFile("testdata/javascript.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	return vectors
}

// TestJavaScript opens what another implementation has sealed, with every suite.
func TestJavaScript(t *testing.T) {
	t.Parallel()
	vectors := readVectors(t)
	seen := map[Suite]bool{}
	for _, v := range vectors {
		seen[v.Suite] = true
		var demand map[string]string
		if v.Repeat > 0 {
			demand = map[string]string{"purpose": "test", "Ünïcode": "✓"}
		}
		_, err := open(t.Context(), bytes.NewReader(v.Message), Options{Context: demand})
		if v.Suite.Commits() == errors.Is(err, ErrUncommitted) {
			t.Errorf("%s without a word: %v", v.Suite, err)
		}
		got, err := open(t.Context(), bytes.NewReader(v.Message), Options{Context: demand, AllowUncommitted: true})
		if want := strings.Repeat("The quick brown fox jumps over the lazy dog. ", v.Repeat); err != nil || string(got) != want {
			t.Errorf("%s, frames of %d, %d sentences: %q, %v", v.Suite, v.FrameLength, v.Repeat, got, err)
		}
	}
	if len(seen) != len(suites) {
		t.Errorf("vectors of %d suites, there are %d", len(seen), len(suites))
	}
}

// TestJavaScriptAltered: version 1 and its signatures, byte by byte.
func TestJavaScriptAltered(t *testing.T) {
	t.Parallel()
	vectors := readVectors(t)
	for _, v := range vectors {
		if v.Repeat != 1 || v.FrameLength != 16 || v.Suite != 0x0178 && v.Suite != 0x0214 && v.Suite != 0x0378 {
			continue
		}
		for i := range v.Message {
			altered := bytes.Clone(v.Message)
			altered[i] ^= 1 << (i % 8)
			if _, err := open(t.Context(), bytes.NewReader(altered), Options{AllowUncommitted: true}); err == nil {
				t.Errorf("%s: byte %d altered", v.Suite, i)
			}
		}
		for n := range v.Message {
			if _, err := open(t.Context(), bytes.NewReader(v.Message[:n]), Options{AllowUncommitted: true}); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: cut to %d: %v", v.Suite, n, err)
			}
		}
	}
}
