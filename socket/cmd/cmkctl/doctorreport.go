package main

import (
	"fmt"
	"maps"
	"slices"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/cmd/cmkctl/internal/operate"
)

// tokenReport is what is known of one token.
type tokenReport struct {
	Token string      `json:"token"`
	Found *foundToken `json:"found,omitempty"`
	// First and Further say whether it can be a [[token]] in that place: not of one that is
	// in use.
	First   *place   `json:"first,omitempty"`
	Further *place   `json:"further,omitempty"`
	OwnKeys []ownKey `json:"ownKeys,omitempty"`
	// Plugins are what each of them found.
	Plugins []findings `json:"plugins"`
}

type place struct {
	Possible bool `json:"possible"`
	// Text says for which keys, or why not.
	Text string `json:"text,omitempty"`
}

// String is "yes", "no", or one of them with the text.
func (p *place) String() string {
	text := map[bool]string{true: "yes", false: "no"}[p.Possible]
	switch {
	case p.Text == "":
		return text
	case p.Possible:
		return text + ", " + p.Text
	default:
		return text + ": " + p.Text
	}
}

// ownKey is a key that the daemon makes for itself.
type ownKey struct {
	Key      string `json:"key"`
	Spec     string `json:"spec"`
	Possible bool   `json:"possible"`
	Lacks    string `json:"lacks,omitempty"`
	Without  string `json:"without,omitempty"` // what becomes of the service

	what  string
	first bool // the first token must hold it
}

// ownKeys are what the daemon needs a token for itself, by the key spec of the key of its own.
var ownKeys = []ownKey{
	{Key: "state", Spec: "HMAC_256", what: "the state key, which authenticates the database", Without: firstElsewhere, first: true},
	{Key: "audit", Spec: "ECC_NIST_P256", what: "the audit key, which signs the audit trail", Without: firstElsewhere, first: true},
	{Key: "wrapping", Spec: "AES_256", what: "the wrapping key, under which data keys leave the service", Without: "data keys are refused, the rest is served"},
}

const firstElsewhere = "the first [[token]] must be another one"

// reports has a report for each token, in the order of the findings. judged: the token was
// probed, and not found in a daemon that uses it.
func reports(list []findings, judged bool) []tokenReport {
	out := []tokenReport{}
	for _, f := range list {
		i := slices.IndexFunc(out, func(r tokenReport) bool { return r.Token == f.Token })
		if i < 0 {
			i, out = len(out), append(out, tokenReport{Token: f.Token})
		}
		r := &out[i]
		if r.Found == nil {
			r.Found = f.Found
		}
		r.Plugins = append(r.Plugins, f)
	}
	for i := range out {
		out[i].judge(judged)
	}
	return out
}

// facts are those of all plugins, which share most of them.
func (r *tokenReport) facts() map[string]string {
	all := map[string]string{}
	for _, f := range r.Plugins {
		maps.Copy(all, f.Facts)
	}
	return all
}

// judge says which of the daemon's own keys the token can hold and, of one that was probed, what it
// can be in a configuration.
func (r *tokenReport) judge(probed bool) {
	lacks, known := map[string]string{}, !probed && len(r.facts()) > 0
	symmetric, signing := false, 0
	for _, f := range r.Plugins {
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
	first := place{Possible: true}
	for _, own := range ownKeys {
		why, asked := lacks[own.Spec]
		if !asked && !known { // its plugin says why
			first.Possible = first.Possible && !own.first
			continue
		}
		if own.Possible, own.Lacks = why == "", why; own.Possible {
			own.Without = ""
		}
		first.Possible = first.Possible && (own.Possible || !own.first)
		r.OwnKeys = append(r.OwnKeys, own)
	}
	if !probed || r.Found == nil {
		return
	}
	further := asFurther(symmetric, signing)
	if r.Found.ReadOnly {
		first, further = r.Found.onlyWhatIsThere(first), r.Found.onlyWhatIsThere(further)
	}
	r.First, r.Further = &first, &further
}

// onlyWhatIsThere limits what a write-protected token can be.
func (t *foundToken) onlyWhatIsThere(p place) place {
	switch {
	case !p.Possible:
		return p
	case t.Keys == 0:
		return place{Text: "it is write-protected, and no key of cmkd's is in it"}
	default:
		return place{Possible: true, Text: fmt.Sprintf("but with the %s of cmkd's alone that it holds: it is write-protected, so that no key can be made, imported or deleted", cli.Number(uint64(t.Keys), "key"))} //nolint:gosec // a count
	}
}

// asFurther says what a custom key store on the token holds: symmetric encryption keys, and signing
// keys of so many specs where the configuration lets it.
func asFurther(symmetric bool, signing int) place {
	const let = "with signing_keys = true"
	specs := cli.Number(uint64(signing), "spec") //nolint:gosec // a count
	switch {
	case symmetric && signing > 0:
		return place{true, fmt.Sprintf("for symmetric encryption keys, %s also for signing keys of %s", let, specs)}
	case symmetric:
		return place{true, "for symmetric encryption keys"}
	case signing > 0:
		return place{true, fmt.Sprintf("%s, for signing keys of %s", let, specs)}
	default:
		return place{false, "a custom key store holds symmetric encryption keys and signing keys, and this token neither"}
	}
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
