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
	"unsafe"

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

// TestSearch: what a process holds, here this one, is found in its memory.
func TestSearch(t *testing.T) {
	t.Parallel()
	held := random(40)
	var s memscan.Secrets
	s.Add("held", held)
	hits, err := s.Search(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	at := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(held))))
	if !slices.ContainsFunc(hits, func(h memscan.Hit) bool { return h.Form == memscan.Raw && h.Address == at }) {
		t.Errorf("it is at %#x; found: %v", at, hits)
	}
	if _, err := s.Search(1 << 30); err == nil {
		t.Error("a process that does not exist was searched")
	}
	runtime.KeepAlive(held)
}
