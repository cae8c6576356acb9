package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/cmd/cmkctl/internal/clitest"
)

// keyFlags are the flags that name a key.
var keyFlags = []string{"key", "from-key"}

// TestKeyFlags: a key is named in the same way by every command.
func TestKeyFlags(t *testing.T) {
	t.Parallel()
	eachCommand(newRoot(), func(cmd *cobra.Command) {
		for _, name := range keyFlags {
			f := cmd.Flags().Lookup(name)
			if f != nil && (!strings.HasPrefix(f.Usage, cli.KeyUsage) || name == "key" && f.Shorthand != "k") {
				t.Errorf("%s --%s: %s", cmd.CommandPath(), name, f.Usage)
			}
		}
	})
}

// TestBareKeyName: every command that takes a key tells who forgot alias/ what they meant, and
// tells nobody of an alias that is not there.
func TestBareKeyName(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "cmkctl") // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket, file := filepath.Join(dir, "s"), filepath.Join(dir, "file")
	stop, err := clitest.StartService(socket, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = null.Close() })
	const name = "us-east-1" // the service names its one alias after the Region
	tried := 0
	eachCommand(newRoot(), func(cmd *cobra.Command) {
		if cmd.HasParent() && cmd.Parent().Name() == "audit" { // the trail knows the aliases
			return
		}
		for _, place := range keyPlaces(cmd) {
			tried++
			for key, want := range map[string]bool{name: true, "none": false, "a b": false} {
				args := append(commandLine(cmd, place, key, file), "--socket", socket, "--region", name)
				root := newRoot()
				root.SetArgs(args)
				root.SetOut(null)
				root.SetErr(io.Discard)
				err := root.ExecuteContext(context.Background())
				if err == nil && !want { // the service has an answer for every list
					continue
				}
				exit, _ := errors.AsType[*cli.ExitError](err)
				hint := exit != nil && exit.Status == cli.ExitNotFound && strings.Contains(err.Error(), key+" is not a key ID: did you mean alias/"+key+"?")
				if hint != want || exit == nil || exit.Status == cli.ExitUsage {
					t.Errorf("%q: %v", args, err)
				}
			}
		}
	})
	if tried < 30 {
		t.Errorf("%d commands take a key", tried)
	}
}

// keyPlaces are the places of a command line that name a key: flags, or the argument KEY.
func keyPlaces(cmd *cobra.Command) []string {
	var places []string
	for _, name := range keyFlags {
		if cmd.Flags().Lookup(name) != nil {
			places = append(places, name)
		}
	}
	if slices.Contains(cli.Arguments(cmd.Use), "KEY") {
		places = append(places, "KEY")
	}
	return places
}

// commandLine has the command with the key in the place, and something everywhere else where the
// command wants it.
func commandLine(cmd *cobra.Command, place, key, file string) []string {
	args := strings.Fields(cmd.CommandPath())[1:]
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		kind, _ := pflag.UnquoteUsage(f)
		_, required := f.Annotations[cobra.BashCompOneRequiredFlag]
		switch {
		case f.Name == place:
			args = append(args, "--"+f.Name, key)
		case slices.Contains(keyFlags, f.Name) && required:
			args = append(args, "--"+f.Name, "alias/other")
		case required && kind == "file":
			args = append(args, "--"+f.Name, file)
		case required:
			args = append(args, "--"+f.Name, "x")
		case cmd.Name() == "export-parameters" && f.Name == "output":
			args = append(args, "--output", "json") // else it wants a file for each part
		case f.Name == "yes":
			args = append(args, "--yes")
		}
	})
	for _, word := range cli.Arguments(cmd.Use) {
		switch {
		case word == "KEY":
			args = append(args, key)
		case word == "FILE":
			args = append(args, file)
		case word == strings.TrimSuffix(word, "..."):
			args = append(args, "x")
		}
	}
	return args
}
