package pkcs11_test

import (
	"testing"
	"unicode/utf8"

	"cmkd/backends/pkcs11"
)

// TestPrintable: what a module calls itself goes to terminals, and into messages that are UTF-8.
func TestPrintable(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"SoftHSM v2": "SoftHSM v2", "Müller": "Müller", "M\xfcller": "M\ufffdller",
		"\x1b[31mred\n": "\ufffd[31mred\ufffd", "a\x00\u009bb": "a\ufffd\ufffdb", "": "",
	} {
		if got := pkcs11.Printable(text); got != want || !utf8.ValidString(got) {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}
