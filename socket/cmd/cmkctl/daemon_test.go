package main

import "testing"

// TestSift: of what cmkd says, its log and its notes are left out.
func TestSift(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]struct{ warnings, why string }{
		"": {},
		"{\"level\":\"INFO\"}\ncmkd: note: a token\ncmkd: warning: a file\n": {"cmkd: warning: a file\n", ""},
		"{\"level\":\"WARN\"}\ncmkd: warning: a file\ncmkd: the token is away\nand so is the other\n{\"level\":\"INFO\"}\n": {
			"cmkd: warning: a file\n", "the token is away\nand so is the other",
		},
		"panic: no line of cmkd's\n": {},
	} {
		if warnings, why := sift(said); warnings != want.warnings || why != want.why {
			t.Errorf("%q: %q, %q, want %q, %q", said, warnings, why, want.warnings, want.why)
		}
	}
}
