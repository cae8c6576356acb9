package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func newDoctor(s *service) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Say what the tokens can do, and which way imports take",
		Long: `Say what each plugin found when it probed its token, by calling it: mechanisms,
whether imported key material is unwrapped in the token or passes through the
plugin ("import-..."), and the key specs that the token cannot hold.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := readHealth(cmd.Context(), s)
			if err != nil {
				return err
			}
			if err := h.diagnose(cmd.OutOrStdout()); err != nil {
				return fmt.Errorf("printing what was found: %w", err)
			}
			return nil
		},
	}
}

// diagnose prints the facts of every plugin.
func (h *health) diagnose(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, p := range h.Plugins {
		fmt.Fprintf(w, "token %s, plugin %s\n", p.Token, p.Name)
		if len(p.Facts) == 0 {
			fmt.Fprintf(w, "  not known: the plugin is %s\n", p.State)
		}
		for _, name := range slices.Sorted(maps.Keys(p.Facts)) {
			fmt.Fprintf(w, "  %s\t%s\n", name, p.Facts[name])
		}
		for _, spec := range slices.Sorted(maps.Keys(p.Unsupported)) {
			fmt.Fprintf(w, "  no %s\tlacks %s\n", spec, p.Unsupported[spec])
		}
	}
	return w.Flush()
}
