package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/version"
)

func newVersion() *cobra.Command {
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of cmkctl",
		Long: `Version prints the release of cmkctl. "cmkctl status" shows that of the running
daemon, and "cmkd -version" that of the installed one.`,
		Example: `  cmkctl version
  cmkctl version -o json | jq -r .version`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{version.Release(), runtime.Version(), fmt.Sprintf("%s/%s", runtime.GOOS, runtime.GOARCH)}
			return p.Print(cmd.OutOrStdout(), v, cli.Table{Rows: [][]string{{version.Line("cmkctl")}}})
		},
	}
	p.RegisterFormat(cmd)
	return cmd
}
