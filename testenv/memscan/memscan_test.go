package memscan_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"os"
	"runtime"
	"slices"
	"testing"

	"cmkd/testenv/memscan"
)

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// TestFind: each form of a secret is found, whole or in part, wherever it begins;
// nothing else is.
func TestFind(t *testing.T) {
	t.Parallel()
	secret := random(64)
	reversed := slices.Clone(secret)
	slices.Reverse(reversed)
	var s memscan.Secrets
	s.Add("the secret", secret)
	for name, held := range map[string][]byte{
		"raw":                                    slices.Clone(secret),
		"a part":                                 slices.Clone(secret[17:40]),
		"reversed":                               reversed,
		"hexadecimal":                            []byte(hex.EncodeToString(secret)),
		"upper case":                             bytes.ToUpper([]byte(hex.EncodeToString(secret))),
		"base64":                                 []byte(base64.StdEncoding.EncodeToString(secret)),
		"base64 with one byte before the secret": []byte(base64.StdEncoding.EncodeToString(append(random(1), secret...))),
		"base64 with two bytes before the secret": []byte(base64.StdEncoding.EncodeToString(append(random(2), secret...))),
		"a part of base64":                        []byte(base64.StdEncoding.EncodeToString(append(random(2), secret...))[30:60]),
	} {
		if len(s.Find(append(random(5), held...))) == 0 {
			t.Errorf("%s is not found", name)
		}
		for i := range held {
			held[i]++
		}
		if hits := s.Find(held); len(hits) > 0 {
			t.Errorf("%s is found where it is not: %v", name, hits)
		}
	}
}

// TestSearch: in the memory of a process, here this one, what is held is found, and
// what was overwritten is not.
func TestSearch(t *testing.T) {
	t.Parallel()
	held, wiped := random(40), random(40)
	var s memscan.Secrets
	s.Add("held", held)
	s.Add("wiped", wiped)
	clear(wiped)
	hits, err := s.Search(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, h := range hits {
		if h.Form == memscan.Raw { // the other forms are of Add itself
			found[h.Secret] = true
		}
	}
	runtime.KeepAlive(held)
	runtime.KeepAlive(wiped)
	if !found["held"] || found["wiped"] {
		t.Errorf("found: %v", found)
	}
	if _, err := s.Search(1 << 30); err == nil {
		t.Error("a process that does not exist was searched")
	}
}
