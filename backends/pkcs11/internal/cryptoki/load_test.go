package cryptoki

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := filepath.Join(dir, "text.so")
	if err := os.WriteFile(text, []byte("no library\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none.so"): "No such file or directory",
		text:                          "too short",
		"libm.so.6":                   "no C_GetFunctionList",
	} {
		if err := LoadError(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}
