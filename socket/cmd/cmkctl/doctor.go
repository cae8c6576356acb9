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

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/cmd/cmkctl/internal/operate"
)

// findings are what one plugin found in one token, as `cmkd -probe` says it.
type findings struct {
	Token  string            `json:"token"`
	Plugin string            `json:"plugin"`
	Found  *foundToken       `json:"found,omitempty"`
	Specs  []foundSpec       `json:"specs,omitempty"`
	Facts  map[string]string `json:"facts,omitempty"`
	Error  string            `json:"error,omitempty"`
}

type foundToken struct {
	Label        string `json:"label"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Firmware     string `json:"firmware"`
}

type foundSpec struct {
	Spec        string   `json:"spec"`
	Usages      []string `json:"usages,omitempty"`
	Unsupported string   `json:"unsupported,omitempty"`
}

func newDoctor(s *cli.Service) *cobra.Command {
	var (
		t setup
		p cli.Printer
	)
	cmd := &cobra.Command{
		Use:   "doctor [--module PATH --pin-file FILE]",
		Short: "Show what the tokens can do, and how they import key material",
		Long: `Doctor shows what each plugin found when it probed its token by calling it: mechanisms,
whether imported key material is unwrapped in the token or passes through the
plugin ("import-..."), and the key specs that the token cannot hold.

With --module, doctor probes that token itself, without a daemon and without a
configuration. It leaves nothing in the token, and tries the PIN once. It exits with 1
if the token cannot be used at all, for example because it reveals sensitive keys.`,
		Example: `  cmkctl doctor
  cmkctl doctor --module /usr/lib/softhsm/libsofthsm2.so --token-label cmkd --pin-file pin
  cmkctl doctor -o json --module /opt/hsm/libhsm.so --module-network --pin-file pin`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if t.module == "" {
				for _, name := range []string{"pin-file", "token-label", "token-serial", "module-env", "module-network", "module-readable", "module-writable"} {
					if cmd.Flags().Changed(name) {
						return cli.Usagef("--%s is of a token that --module loads: give that, too", name)
					}
				}
				return doctorDaemon(cmd, s, &p)
			}
			if t.pinFile == "" {
				return cli.Usagef("--module wants the --pin-file of the token, too")
			}
			t.warn(cmd)
			ctx, stop := cli.UntilSignal(cmd.Context())
			defer stop()
			list, err := t.probe(ctx, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if err := printFindings(cmd.OutOrStdout(), list, &p); err != nil {
				return err
			}
			return verdict(list)
		},
	}
	t.tokenFlags(cmd)
	p.Register(cmd)
	return cmd
}

// doctorDaemon says what the daemon's plugins found.
func doctorDaemon(cmd *cobra.Command, s *cli.Service, p *cli.Printer) error {
	h, err := operate.ReadHealth(cmd.Context(), s)
	if err != nil {
		return err
	}
	if p.Output.Value != cli.AsTable {
		return printFindings(cmd.OutOrStdout(), daemonFindings(h), p)
	}
	if err := diagnose(h, cmd.OutOrStdout()); err != nil {
		return fmt.Errorf("printing what was found: %w", err)
	}
	return nil
}

// daemonFindings are those of every plugin. The status has only the specs that a token
// cannot hold.
func daemonFindings(h *operate.Health) []findings {
	list := []findings{}
	for _, p := range h.Plugins {
		f := findings{Token: operate.OnToken(&p), Plugin: p.Name, Facts: p.Facts}
		for _, t := range h.Tokens {
			if t.Name == p.Token {
				f.Found = &foundToken{Label: t.Label, Serial: t.Serial, Model: t.Model}
				for _, m := range t.Members {
					if m.Name == p.Member {
						f.Found.Label, f.Found.Serial = m.Label, m.Serial
					}
				}
			}
		}
		for _, spec := range slices.Sorted(maps.Keys(p.Unsupported)) {
			f.Specs = append(f.Specs, foundSpec{Spec: spec, Unsupported: p.Unsupported[spec]})
		}
		if len(p.Facts) == 0 {
			f.Error = "not known: the plugin is " + p.State
		}
		list = append(list, f)
	}
	return list
}

// diagnose prints the facts of every plugin.
func diagnose(h *operate.Health, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, p := range h.Plugins {
		fmt.Fprintf(w, "token %s, plugin %s\n", operate.OnToken(&p), p.Name)
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

// printFindings prints what the probe of one token found.
func printFindings(out io.Writer, list []findings, p *cli.Printer) error {
	if p.Output.Value != cli.AsTable {
		text, err := json.Marshal(list)
		if err != nil {
			return err
		}
		return cli.PrintValue(out, json.RawMessage(text), p.Output.Value)
	}
	header := func(w io.Writer, text string) {
		if !p.NoHeaders {
			fmt.Fprint(w, text)
		}
	}
	if !slices.ContainsFunc(list, func(f findings) bool { return f.Found != nil }) {
		return nil // the verdict says why
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, f := range list {
		if f.Found != nil {
			fmt.Fprintf(w, "token %q: %s %s, firmware %s, serial number %s\n\n",
				f.Found.Label, f.Found.Manufacturer, f.Found.Model, f.Found.Firmware, f.Found.Serial)
			break
		}
	}
	header(w, "KEY SPEC\tFOR\tPOSSIBLE\tWHERE, OR WHY NOT\n")
	for _, f := range list {
		for _, s := range f.Specs {
			possible, where := "yes", "made and used in the token"
			if s.Unsupported != "" {
				possible, where = "no", "lacks "+s.Unsupported
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Spec, strings.Join(s.Usages, ", "), possible, where)
		}
	}
	printRoles(w, list, header)
	facts := map[string]string{} // the plugins share most of them
	for _, f := range list {
		maps.Copy(facts, f.Facts)
	}
	fmt.Fprintln(w)
	header(w, "MECHANISM, OR WAY OF AN IMPORT\tFOUND\n")
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		fmt.Fprintf(w, "%s\t%s\n", name, facts[name])
	}
	return w.Flush()
}

// ownKeys are what the daemon needs a token for itself, by the key spec of the key of its own.
var ownKeys = []struct{ spec, what, without string }{
	{"HMAC_256", "the state key, which authenticates the database", firstElsewhere},
	{"ECC_NIST_P256", "the audit key, which signs the audit trail", firstElsewhere},
	{"AES_256", "the wrapping key, under which data keys leave the service", "data keys are refused, the rest is served"},
}

const firstElsewhere = "the first [[token]] must be another one"

// printRoles says what the token can be in a configuration, and what to do where it cannot.
func printRoles(w io.Writer, list []findings, header func(io.Writer, string)) {
	lacks := map[string]string{}
	symmetric, signing := false, 0
	for _, f := range list {
		for _, s := range f.Specs {
			lacks[s.Spec] = s.Unsupported
			switch {
			case s.Unsupported != "":
			case s.Spec == "SYMMETRIC_DEFAULT":
				symmetric = true
			case slices.Contains(s.Usages, "SIGN_VERIFY"):
				signing++
			}
		}
	}
	fmt.Fprintln(w)
	header(w, "OF THE DAEMON'S OWN\tPOSSIBLE\tWITHOUT IT\n")
	first := "yes"
	for _, own := range ownKeys {
		why, asked := lacks[own.spec]
		switch {
		case !asked: // its plugin says why
			continue
		case why == "":
			fmt.Fprintf(w, "%s\tyes\t\n", own.what)
			continue
		case own.without == firstElsewhere:
			first = "no"
		}
		fmt.Fprintf(w, "%s\tno: lacks %s\t%s\n", own.what, why, own.without)
	}
	fmt.Fprintln(w)
	header(w, "THE TOKEN AS\tPOSSIBLE\n")
	fmt.Fprintf(w, "first [[token]]\t%s\nfurther [[token]]\t%s\n", first, asFurther(symmetric, signing))
}

// asFurther says what a custom key store on the token holds: symmetric encryption keys, and signing
// keys of so many specs where the configuration lets it.
func asFurther(symmetric bool, signing int) string {
	const let = "with signing_keys = true"
	specs := cli.Number(uint64(signing), "spec") //nolint:gosec // a count
	switch {
	case symmetric && signing > 0:
		return fmt.Sprintf("yes, for symmetric encryption keys, %s also for signing keys of %s", let, specs)
	case symmetric:
		return "yes, for symmetric encryption keys"
	case signing > 0:
		return fmt.Sprintf("yes, %s, for signing keys of %s", let, specs)
	default:
		return "no: a custom key store holds symmetric encryption keys and signing keys, and this token neither"
	}
}

// verdict is an error if a plugin cannot serve the token. What is wrong with the token
// is said once.
func verdict(list []findings) error {
	var errs []error
	said := map[string]bool{}
	for _, f := range list {
		reason := strings.ReplaceAll(f.Error, f.Token+"/"+f.Plugin, f.Token)
		if f.Error != "" && !said[reason] {
			errs = append(errs, fmt.Errorf("plugin %s cannot serve the token: %s", f.Plugin, f.Error))
		}
		said[reason] = true
	}
	return errors.Join(errs...)
}
