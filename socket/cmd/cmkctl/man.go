package main

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/version"
)

// newMan is for `make install` and packages; people have the pages.
func newMan() *cobra.Command {
	return &cobra.Command{
		Use:    "man FOLDER",
		Short:  "Write a manual page for each command",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			date, err := manDate()
			if err != nil {
				return err
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			if err := os.Unsetenv("AWS_REGION"); err != nil { // they would be defaults
				return err
			}
			if err := os.Unsetenv("AWS_DEFAULT_REGION"); err != nil {
				return err
			}
			root := newRoot()
			root.InitDefaultHelpCmd()
			manText(root)
			return doc.GenManTree(root, &doc.GenManHeader{
				Section: "1", Date: &date, Source: "cmkd " + version.Release(), Manual: "cmkd",
			}, args[0])
		},
	}
}

// manDate is the date of the pages: $SOURCE_DATE_EPOCH, seconds since 1970
// (https://reproducible-builds.org/specs/source-date-epoch/), else now.
func manDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Now(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, cli.Inputf("SOURCE_DATE_EPOCH %q: want the seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// manText makes the Markdown that the pages are made of from the texts of the help,
// in which lines that begin with spaces stay as they are.
func manText(cmd *cobra.Command) {
	escape := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `_`, `\_`, `<`, `\<`, "`", "\\`")
	var text strings.Builder
	indented := false
	for line := range strings.Lines(cmd.Long) {
		was := indented
		if indented = strings.HasPrefix(line, "  "); !indented {
			line = escape.Replace(line)
		}
		if indented != was && strings.TrimSpace(line) != "" {
			text.WriteString("\n")
		}
		if indented {
			text.WriteString("  ") // four make a block of code
		}
		text.WriteString(line)
	}
	cmd.Long = text.String()
	cmd.DisableAutoGenTag = true
	for _, sub := range cmd.Commands() {
		manText(sub)
	}
}
