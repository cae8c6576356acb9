package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
)

// TestBlobWithSpaces: bytes are read whole however they are spaced out, or not at all.
// A part of the text would decode, too.
func TestBlobWithSpaces(t *testing.T) {
	t.Parallel()
	const limit = 4096
	path := filepath.Join(t.TempDir(), "hex")
	data := bytes.Repeat([]byte{0xa5}, limit)
	for _, tt := range []struct {
		between string
		whole   bool
	}{{"", true}, {" ", true}, {"\r\n", true}, {"      ", false}} {
		var text bytes.Buffer
		for _, b := range data {
			fmt.Fprintf(&text, "%02x%s", b, tt.between)
		}
		if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		in := BlobIn{Form: Choice{Value: FormHex}}
		got, err := in.Read(&cobra.Command{}, []string{path}, limit, "plaintext")
		if tt.whole && !bytes.Equal(got, data) || !tt.whole && err == nil {
			t.Errorf("%q between bytes: %d of %d bytes, %v", tt.between, len(got), limit, err)
		}
	}
}
