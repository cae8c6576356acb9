package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// TestFlagErrors: values of flags are refused in the words of the command line.
func TestFlagErrors(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"audit prune --keep x":                    `--keep "x": want a whole number`,
		"audit prune --keep 1.5":                  `--keep "1.5": want a whole number`,
		"audit prune --keep 99999999999999999999": `--keep "99999999999999999999": the number is too large`,
		"audit prune --archive=maybe":             `--archive "maybe": want true or false`,
		"status --timeout 5":                      `--timeout "5": want a time like 30s, 5m or 1h30m`,
		"audit prune --no-such":                   "unknown flag: --no-such",
	} {
		root := newRoot()
		root.SetArgs(strings.Fields(args))
		if err := root.ExecuteContext(t.Context()); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}

// TestVerifiedTrail: one is no plural.
func TestVerifiedTrail(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	at := time.Unix(0, 0).UTC()
	(&verifiedTrail{Records: 2, Segments: 1, First: 1, Last: 2, Hash: "00", FirstTime: at, LastTime: at, Checkpoints: 1, KeyID: "k", SignedThrough: 2, Unsigned: 1}).print(&out)
	for _, want := range []string{"2 records, 1 to 2, in 1 segment\n", ", 1 checkpoint, key k, 0 key changes\n", "unsigned at the end: 1 record\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q lacks %q", out.String(), want)
		}
	}
}
