package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write testdata/help.txt anew")

// TestHelp compares the help of every command with testdata/help.txt. go test -run
// TestHelp -update writes it.
func TestHelp(t *testing.T) {
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		t.Setenv(name, "") // they are the default of --region
	}
	var got bytes.Buffer
	root := newRoot()
	eachCommand(root, func(cmd *cobra.Command) {
		got.WriteString("$ " + cmd.CommandPath() + " --help\n")
		cmd.SetOut(&got)
		if err := cmd.Help(); err != nil {
			t.Fatal(err)
		}
		got.WriteString("\n")
		group := cmd.HasAvailableSubCommands() || cmd.Name() == "help" || cmd.HasParent() && cmd.Parent().Name() == "completion"
		if cmd.Short == "" || cmd.Example == "" && !group {
			t.Errorf("%s has no example or no short help", cmd.CommandPath())
		}
	})
	const path = "testdata/help.txt"
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("the help is not that of %s: look at it, then go test -run TestHelp -update", path)
	}
}

// eachCommand visits the commands that the help lists.
func eachCommand(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() || sub.Name() == "help" {
			eachCommand(sub, visit)
		}
	}
}

// works reports whether a command does something of cmkctl's own: groups and what prints scripts
// for a shell do not.
func works(cmd *cobra.Command) bool {
	return cmd.HasParent() && !cmd.HasAvailableSubCommands() && cmd.Name() != "help" && cmd.Parent().Name() != "completion" || cmd.Name() == "backup"
}

// TestEveryCommandPrints: what every command prints can be had as JSON and as YAML.
func TestEveryCommandPrints(t *testing.T) {
	t.Parallel()
	eachCommand(newRoot(), func(cmd *cobra.Command) {
		if !works(cmd) {
			return
		}
		output := cmd.Flags().Lookup("output")
		if output == nil || output.Shorthand != "o" {
			t.Errorf("%s has no -o", cmd.CommandPath())
			return
		}
		for _, format := range []string{"json", "yaml"} {
			if err := output.Value.Set(format); err != nil {
				t.Errorf("%s -o %s: %v", cmd.CommandPath(), format, err)
			}
		}
	})
}

// TestEveryCommandHasAScript: a script runs every command.
func TestEveryCommandHasAScript(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	var scripts strings.Builder
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		scripts.Write(text)
	}
	eachCommand(newRoot(), func(cmd *cobra.Command) {
		path := strings.TrimPrefix(cmd.CommandPath(), "cmkctl ")
		if works(cmd) && !regexp.MustCompile(`cmkctl( --\S+ \S+)* `+path+`\b`).MatchString(scripts.String()) {
			t.Errorf("no script runs cmkctl %s", path)
		}
	})
}
