package main

import (
	"slices"
	"testing"

	"cmkd/socket/cmd/cmkctl/internal/cli"

	"github.com/spf13/cobra"
)

// TestArgumentsOf reads usages as people do.
func TestArgumentsOf(t *testing.T) {
	for use, want := range map[string][]string{
		"list":                                 nil,
		"encrypt --key KEY [FILE]":             {"FILE"},
		"update ALIAS KEY":                     {"ALIAS", "KEY"},
		"tag KEY [NAME=VALUE...]":              {"KEY", "NAME=VALUE..."},
		"call OPERATION [JSON | -]":            {"OPERATION", "JSON"},
		"rewrap --key KEY FILE":                {"FILE"},
		"prune --before DATE | --keep N":       nil,
		"bridge [flags] [-- COMMAND [A...]]":   {"COMMAND", "A..."},
		"revoke --key KEY GRANT-ID":            {"GRANT-ID"},
		"init --dir DIR (--softhsm | --pin P)": nil,
	} {
		if got := cli.Arguments(use); !slices.Equal(got, want) {
			t.Errorf("the arguments of %q are %q, want %q", use, got, want)
		}
	}
}

// TestEveryArgumentCompletes: an argument that names what the daemon has is completed.
// A new kind of argument is to be put into one of the two lists.
func TestEveryArgumentCompletes(t *testing.T) {
	free := []string{
		"BYTES", "COMMAND", "ARGUMENT...", "FILE", "FOLDER", "ID", "NAME", "JSON", "NAME=VALUE...", "TEXT", "KEY-ID...", "COMMAND...",
	}
	root := newRoot()
	root.InitDefaultHelpCmd()
	eachCommand(root, func(cmd *cobra.Command) {
		for _, word := range cli.Arguments(cmd.Use) {
			if _, ok := completed[word]; !ok && !slices.Contains(free, word) {
				t.Errorf("%s has an argument %s that nothing completes", cmd.CommandPath(), word)
			}
		}
	})
}
