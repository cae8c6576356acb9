package main

import (
	"strings"
	"testing"
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
