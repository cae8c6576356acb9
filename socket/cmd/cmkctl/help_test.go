package main

import (
	"bytes"
	"flag"
	"os"
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
