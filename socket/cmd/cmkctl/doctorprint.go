package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// printReports prints reports for programs.
func printReports(out io.Writer, list []tokenReport, p *cli.Printer) error {
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return cli.PrintValue(out, json.RawMessage(text), p.Output.Value)
}

// diagnose prints what the plugins of a daemon found, once for each token.
func diagnose(list []tokenReport, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, r := range list {
		fmt.Fprintf(w, "token %s\n", r.Token)
		for _, f := range r.Plugins {
			if f.Error != "" {
				fmt.Fprintf(w, "  plugin %s\t%s\n", f.Plugin, f.Error)
			}
		}
		facts := r.facts()
		for _, name := range slices.Sorted(maps.Keys(facts)) {
			fmt.Fprintf(w, "  %s\t%s\n", name, facts[name])
		}
		for _, f := range r.Plugins {
			for _, s := range f.Specs {
				fmt.Fprintf(w, "  no %s\tlacks %s\n", s.Spec, s.Unsupported)
			}
		}
		for _, own := range r.OwnKeys {
			if !own.Possible {
				fmt.Fprintf(w, "  without %s\t%s\n", own.what, own.Without)
			}
		}
	}
	return w.Flush()
}

// printProbed prints what the probe of one token found.
func printProbed(out io.Writer, r *tokenReport, p *cli.Printer) error {
	header := func(w io.Writer, text string) {
		if !p.NoHeaders {
			fmt.Fprint(w, text)
		}
	}
	if r.Found == nil {
		return nil // the verdict says why
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "token %q: %s %s, firmware %s, serial number %s\n", r.Found.Label, r.Found.Manufacturer, r.Found.Model, r.Found.Firmware, r.Found.Serial)
	if n := r.Found.Keys; n > 0 {
		fmt.Fprintf(w, "it holds %s of a cmkd's already\n", cli.Number(uint64(n), "key")) //nolint:gosec // a count
	}
	header(w, "\nKEY SPEC\tFOR\tPOSSIBLE\tWHERE, OR WHY NOT\n")
	for _, f := range r.Plugins {
		for _, s := range f.Specs {
			possible, where := "yes", "made and used in the token"
			if s.Unsupported != "" {
				possible, where = "no", "lacks "+s.Unsupported
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Spec, strings.Join(s.Usages, ", "), possible, where)
		}
	}
	fmt.Fprintln(w)
	header(w, "OF THE DAEMON'S OWN\tPOSSIBLE\tWITHOUT IT\n")
	for _, own := range r.OwnKeys {
		possible := "yes"
		if !own.Possible {
			possible = "no: lacks " + own.Lacks
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", own.what, possible, own.Without)
	}
	fmt.Fprintln(w)
	header(w, "THE TOKEN AS\tPOSSIBLE\n")
	fmt.Fprintf(w, "first [[token]]\t%s\nfurther [[token]]\t%s\n\n", r.First, r.Further)
	header(w, "MECHANISM, OR WAY OF AN IMPORT\tFOUND\n")
	facts := r.facts()
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		fmt.Fprintf(w, "%s\t%s\n", name, facts[name])
	}
	return w.Flush()
}

// verdict is an error if a plugin cannot serve the token. What is wrong with the token
// is said once, and what the flags can do about it.
func verdict(r *tokenReport, sandboxed bool) error {
	var errs []error
	said := map[string]bool{}
	for _, f := range r.Plugins {
		reason := strings.ReplaceAll(f.Error, f.Token+"/"+f.Plugin, f.Token)
		if f.Error != "" && !said[reason] {
			// Nothing is lost that was there.
			errs = append(errs, fmt.Errorf("plugin %s cannot serve the token: %s", f.Plugin, strings.TrimPrefix(f.Error, "Lost: ")))
		}
		said[reason] = true
	}
	if sandboxed && len(errs) > 0 && strings.Contains(errs[0].Error(), "C_Initialize of module") {
		errs = append(errs, errors.New(sandboxAdvice))
	}
	return errors.Join(errs...)
}

const sandboxAdvice = "the library ran in a sandbox: --module-readable, --module-writable and --module-network let it reach more, --module-unconfined everything"
