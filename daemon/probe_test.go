package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProbeFiles: a probe begins with what shows without the token. A FIFO is never read to
// its end, and a module says nothing of a file that is not there.
func TestProbeFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := unix.Mkfifo(at("fifo"), 0o400); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pin", "module.so"} {
		if err := os.WriteFile(at(name), []byte("1234\n"), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	found, err := filepath.Glob("/lib/*/libm.so.6")
	if err != nil || len(found) == 0 {
		t.Fatalf("no libm: %v", err)
	}
	if err := os.Symlink(found[0], at("libm.so")); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct{ module, pin, want string }{
		"a PIN from a FIFO":   {"module.so", "fifo", "fifo is not a regular file"},
		"no PIN":              {"module.so", "none", "none: no such file"},
		"no module":           {"none.so", "pin", "none.so: no such file"},
		"a folder for module": {"", "pin", "is not a regular file"},
		"a text for module":   {"module.so", "pin", "module.so is not a PKCS#11 library: it is not a shared library"},
		"another library":     {"libm.so", "pin", "libm.so is not a PKCS#11 library: it has no function C_GetFunctionList"},
	} {
		text := fmt.Sprintf("account = \"123456789012\"\nstate_dir = %q\n[socket]\npath = %q\n[[token]]\nname = \"main\"\nlabel = \"x\"\nmodule = %q\npin_file = %q\n",
			at("state"), at("s"), at(c.module), at(c.pin))
		path := at("config.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Probe(t.Context(), path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}
