package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestBlankConfig: what says nothing may be replaced, and nothing else.
func TestBlankConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "config.toml")
	if b, err := blankConfig(path); b != nil || err != nil {
		t.Errorf("no file: %v, %v", b, err)
	}
	for text, blank := range map[string]bool{
		"# nothing\n\n": true, "": false, "a = 1\n": false, "[socket]\n": false, "nonsense": false,
	} {
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		b, err := blankConfig(path)
		if (err == nil) != blank || (b != nil) != blank {
			t.Errorf("%q: %v, %v", text, b, err)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := blankConfig(link); err == nil {
		t.Error("a link may be replaced")
	}
	b := &blank{[]byte("# nothing\n"), 0o640}
	if err := b.putBack(path); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "# nothing\n" {
		t.Errorf("%q, %v", got, err)
	}
}
