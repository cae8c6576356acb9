package tokens_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"cmkd/testenv"
	"cmkd/testenv/tokens"
)

const head = `# Tokens

` + "`make tokens`" + ` writes this page: it makes an empty token of each kind, lets a whole daemon
loose on it, and checks over the socket what comes, signatures and MACs outside of the token.
Every bad input is sent five times. A cell says how many checks work, and how many the daemon
refuses with UnsupportedOperationException and what the token lacks. An answer that is wrong,
an internal error or a plugin process that ends fails the run. The sums leave out the tests of
the API, which are counted in their own column: those that only complain that the daemon has
refused something that SoftHSM2 can do are refused.

A row of dashes is a token on which the daemon refuses to start, so that nothing was asked of it: the
next table has the reason, and what it could be by the probe alone. tpm2 cannot be the first token either, and was
tried as a further one, with its keys in a custom key store:
docs/decisions/0019-poor-tokens.md says what a TPM does and does not.
CONTRIBUTING.md says how to run the tests on one of them.
Debian has neither SoftHSM 2.7 (sid has 2.6.1) nor kryoptic, whose manners are tried before SoftHSM2.

`

// verdicts says of each token whether it can be the first or a further one, as cmkctl doctor does.
func verdicts(found map[string]*report) string {
	var b strings.Builder
	b.WriteString("\n## What each token can be\n\n| token | first [[token]] | further [[token]] |\n|---|---|---|\n")
	for _, r := range tokens.All {
		if f := found[r.Name]; f != nil {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", r.Name, f.first(), f.further())
		}
	}
	return b.String()
}

// unsafe is why no key is safe in the token, "" if the probe did not find that.
func (r *report) unsafe() string {
	_, why, _ := strings.Cut(r.Refused, "KeyUnsafe: ")
	return why
}

func (r *report) first() string {
	switch {
	case r.Refused == "":
		return "yes"
	case r.unsafe() != "":
		return "no: " + r.unsafe()
	case r.Specs["HMAC_256"] != "":
		return "no: it lacks " + r.Specs["HMAC_256"] + " for the state key"
	case r.Specs["ECC_NIST_P256"] != "":
		return "no: it lacks " + r.Specs["ECC_NIST_P256"] + " for the audit key"
	default:
		return "no: " + r.Refused
	}
}

func (r *report) further() string {
	const let = "with signing_keys = true"
	var signing []string
	for spec, lacks := range r.Specs {
		if lacks == "" && (strings.HasPrefix(spec, "RSA_") || strings.HasPrefix(spec, "ECC_") || strings.HasPrefix(spec, "ML_DSA_")) {
			signing = append(signing, spec)
		}
	}
	slices.Sort(signing)
	lacks, probed := r.Specs["SYMMETRIC_DEFAULT"]
	switch symmetric := probed && lacks == ""; {
	case r.unsafe() != "":
		return "no, for the same reason"
	case symmetric && len(signing) > 0:
		return fmt.Sprintf("yes, for symmetric encryption keys, %s also for signing keys of %s", let, strings.Join(signing, ", "))
	case symmetric:
		return "yes, for symmetric encryption keys"
	case len(signing) > 0:
		return fmt.Sprintf("yes, %s, for signing keys of %s", let, strings.Join(signing, ", "))
	default:
		return "no: a custom key store holds symmetric encryption keys and signing keys, and this token neither"
	}
}

// facts says of each token what it is, what it lacks, and what the probe found.
func facts(found map[string]*report) string {
	var b strings.Builder
	for _, r := range tokens.All {
		f := found[r.Name]
		if f == nil {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s.", r.Name, r.About)
		if f.Token != "" {
			fmt.Fprintf(&b, " It says of itself: %s.", f.Token)
		}
		if r.Name != testenv.SoftHSM2 {
			fmt.Fprintf(&b, " `testenv/tokens/enter.sh %s go test ./testenv/tokens`.", r.Name)
		}
		b.WriteString("\n")
		switch {
		case f.Refused != "" && r.Further:
			fmt.Fprintf(&b, "\nIt is a further token here. As the first one the daemon refuses it: %s\n", f.Refused)
		case f.Refused != "":
			fmt.Fprintf(&b, "\nThe daemon refuses it: %s.\n", f.Refused)
		}
		b.WriteString(whys(f))
		if len(f.Facts) > 0 {
			b.WriteString("\n| probe | found |\n|---|---|\n")
			for _, name := range slices.Sorted(maps.Keys(f.Facts)) {
				fmt.Fprintf(&b, "| %s | %s |\n", name, f.Facts[name])
			}
		}
	}
	return b.String()
}

// whys lists what is refused and why, and the kinds of key that there are not.
func whys(f *report) string {
	var b strings.Builder
	for _, c := range slices.Sorted(maps.Keys(f.Outcomes)) {
		if o := f.Outcomes[c]; len(o.Why) > 0 {
			fmt.Fprintf(&b, "- %s:\n", c)
			for _, why := range o.Why {
				fmt.Fprintf(&b, "  - %s\n", strings.TrimSuffix(why, "."))
			}
		}
	}
	var lacks []string
	for _, spec := range slices.Sorted(maps.Keys(f.Specs)) {
		if why := f.Specs[spec]; why != "" {
			lacks = append(lacks, fmt.Sprintf("%s (%s)", spec, why))
		}
	}
	if len(lacks) > 0 {
		fmt.Fprintf(&b, "- no keys of %s\n", strings.Join(lacks, ", "))
	}
	if b.Len() == 0 {
		return ""
	}
	return "\n" + b.String()
}
