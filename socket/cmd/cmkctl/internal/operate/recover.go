package operate

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

// inventory is what the tokens and the database do not agree on.
type inventory operatorapi.Inventory

func NewRecover(s *cli.Service) *cobra.Command {
	var adopt bool
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "recover [--adopt [KEY-ID...]]",
		Short: "Compare the tokens with the database, and restore keys that it lacks",
		Long: `Recover lists key materials that are in a token but not in the database, as after
the database was lost or an earlier copy restored, and those that are in the database but
not in the token. It also lists the CKA_IDs of keys that two objects share: neither is
used until you remove the one that is not cmkd's.

With --adopt, materials missing from the database are added to it, and the audit trail
records that: all of them, or those of the keys that you name, if the token also holds
keys of others. A newer material of a known key becomes the current one. An unknown key
comes back disabled, with the default key policy: give it its policy, alias and tags, then
enable it.

Recover exits with 1 while something is to be recovered, missing, duplicated or altered.`,
		Example: `  cmkctl recover
  cmkctl recover --adopt 1234abcd-12ab-34cd-56ef-1234567890ab`,
		Args: func(_ *cobra.Command, keys []string) error {
			if len(keys) > 0 && !adopt {
				return errors.New("keys can only be named with --adopt")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, keys []string) error {
			var found inventory
			if err := p.Ask(cmd.Context(), s, operatorapi.Recover.Path, &operatorapi.RecoverRequest{Adopt: adopt, Keys: keys}, &found); err != nil {
				return err
			}
			if err := p.PrintAs(cmd.OutOrStdout(), &found, func(out io.Writer) error { return found.print(out, !p.NoHeaders) }); err != nil {
				return fmt.Errorf("printing what was found: %w", err)
			}
			for _, id := range keys {
				if !found.recovered(id) {
					return fmt.Errorf("key %s was not recovered", id)
				}
			}
			if !found.complete() {
				return &cli.ExitError{Status: 1}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&adopt, "adopt", false, "add what was found to the database")
	p.Register(cmd)
	return cmd
}

// complete reports whether the database and the tokens know the same keys.
func (v *inventory) complete() bool {
	for _, k := range v.Found {
		if !k.Recovered {
			return false
		}
	}
	return len(v.Away) == 0 && len(v.Missing) == 0 && len(v.Duplicates) == 0 && len(v.Unsafe) == 0
}

// recovered reports whether the key with the ID was recovered now.
func (v *inventory) recovered(id string) bool {
	for _, k := range v.Found {
		if k.KeyID == id {
			return k.Recovered
		}
	}
	return false
}

func (v *inventory) print(out io.Writer, headers bool) error {
	for _, token := range v.Away {
		fmt.Fprintf(out, "token %s is unavailable: its keys are unknown\n", token)
	}
	var tables [5][]string
	for _, k := range v.Found {
		versions := make([]string, len(k.Versions))
		for i, n := range k.Versions {
			versions[i] = strconv.Itoa(n)
		}
		note := k.Problem
		switch {
		case k.Recovered && k.Known:
			note = "recovered"
		case k.Recovered:
			note = "recovered, disabled"
		}
		tables[0] = append(tables[0], strings.Join([]string{k.KeyID, strings.Join(versions, ","), k.Token, k.Spec, k.Usage, note}, "\t"))
	}
	for _, m := range v.Missing {
		tables[1] = append(tables[1], fmt.Sprintf("%s\t%d\t%s", m.KeyID, m.Version, m.Token))
	}
	for _, l := range v.Leftovers {
		note := "this database does not use it"
		switch {
		case strings.HasPrefix(l.Label, "cmkd:system-backup:"):
			note = "keep it: it authenticates backups"
		case l.Needed:
			note = "keep it: it opens data keys"
		}
		tables[2] = append(tables[2], strings.Join([]string{l.Label, l.ID, l.Token, note}, "\t"))
	}
	for _, d := range v.Duplicates {
		tables[3] = append(tables[3], fmt.Sprintf("%s\t%d\t%s\t%s", d.KeyID, d.Version, d.Token, d.ID))
	}
	for _, m := range v.Unsafe {
		tables[4] = append(tables[4], fmt.Sprintf("%s\t%d\t%s", m.KeyID, m.Version, m.Token))
	}
	for i, table := range []string{
		"In a token, not in the database:\nKEY\tVERSIONS\tTOKEN\tSPEC\tUSAGE\tNOTE",
		"In the database, not in its token:\nKEY\tVERSION\tTOKEN",
		"Other objects of cmkd that the database does not know:\nLABEL\tCKA_ID\tTOKEN\tNOTE",
		"Not used, because two objects have the CKA_ID; remove the one that is not cmkd's:\nKEY\tVERSION\tTOKEN\tCKA_ID",
		"Not used, because the object has other attributes than cmkd gave it; restore it:\nKEY\tVERSION\tTOKEN",
	} {
		if len(tables[i]) == 0 {
			continue
		}
		w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		title, header, _ := strings.Cut(table, "\n")
		fmt.Fprintln(w, title)
		if headers {
			fmt.Fprintln(w, header)
		}
		for _, line := range tables[i] {
			fmt.Fprintln(w, line)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if len(v.Found)+len(v.Missing)+len(v.Leftovers)+len(v.Away)+len(v.Duplicates)+len(v.Unsafe) == 0 {
		fmt.Fprintln(out, "the tokens and the database agree")
	}
	return nil
}
