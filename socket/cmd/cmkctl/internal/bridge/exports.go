package bridge

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// Variable is one of the environment.
type Variable struct{ Name, Value string }

// AWSVariables point a stock AWS client at a bridge.
func AWSVariables(endpoint, region string, cred Credential) []Variable {
	return []Variable{
		{"AWS_ENDPOINT_URL_KMS", endpoint},
		{"AWS_ACCESS_KEY_ID", cred.ID},
		{"AWS_SECRET_ACCESS_KEY", cred.Secret},
		{"AWS_REGION", region},
		{"AWS_DEFAULT_REGION", region},
		// Not only absent: a configuration file may say it too.
		{"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "false"},
	}
}

// contrary are variables that would turn a client away from the bridge or its
// credential, or that are none of its business.
var contrary = []string{
	"AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_CREDENTIAL_EXPIRATION", "AWS_PROFILE", "AWS_DEFAULT_PROFILE",
	"AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", secretVariable,
}

// bridged returns environ with vars set, without what is contrary to them, and
// with the loopback excepted from any proxy.
func bridged(environ []string, vars []Variable) []string {
	env := slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(contrary, name) || name == "NO_PROXY" || name == "no_proxy" ||
			slices.ContainsFunc(vars, func(v Variable) bool { return v.Name == name })
	})
	for _, v := range vars {
		env = append(env, v.Name+"="+v.Value)
	}
	upper, lower := lookup(environ, "NO_PROXY"), lookup(environ, "no_proxy")
	return append(env, "NO_PROXY="+withLoopback(cmp.Or(upper, lower)), "no_proxy="+withLoopback(cmp.Or(lower, upper)))
}

func lookup(environ []string, name string) string {
	for _, entry := range environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// withLoopback adds the loopback to a list of hosts that are reached without a
// proxy. A lone * stands for all, and only if it is alone.
func withLoopback(hosts string) string {
	if hosts == "" {
		return loopback
	}
	if hosts == "*" || slices.Contains(strings.Split(hosts, ","), loopback) {
		return hosts
	}
	return strings.TrimSuffix(hosts, ",") + "," + loopback
}

// asShell is the format of [WriteExports].
const asShell = "shell"

// RegisterOutput adds the flag for the format of [WriteVariables].
func RegisterOutput(cmd *cobra.Command, output *cli.Choice) {
	*output = cli.Choice{Value: asShell, Of: []string{asShell, cli.AsJSON, cli.AsYAML}}
	cmd.Flags().VarP(output, "output", "o", "`format` of the variables: shell, json or yaml")
}

// environment is what is printed of the variables, but for a shell.
type environment struct {
	Set   map[string]string `json:"set"`
	Unset []string          `json:"unset"`
}

// WriteVariables writes the variables to set and to unset. Programs see to the exception of the
// loopback from a proxy themselves.
func WriteVariables(w io.Writer, vars []Variable, format string) error {
	if format == asShell {
		return WriteExports(w, vars)
	}
	e := environment{Set: map[string]string{}, Unset: contrary}
	for _, v := range vars {
		e.Set[v.Name] = v.Value
	}
	return cli.PrintValue(w, e, format)
}

// WriteExports writes lines for a POSIX shell that do to its environment what
// [bridged] does.
func WriteExports(w io.Writer, vars []Variable) error {
	var b strings.Builder
	for _, v := range vars {
		fmt.Fprintf(&b, "export %s=%s\n", v.Name, ShellQuote(v.Value))
	}
	fmt.Fprintf(&b, "unset %s\n", strings.Join(contrary, " "))
	b.WriteString(`export NO_PROXY="${NO_PROXY:-${no_proxy-}}" no_proxy="${no_proxy:-${NO_PROXY-}}"` + "\n")
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		fmt.Fprintf(&b, "[ \"$%[1]s\" = '*' ] || export %[1]s=\"${%[1]s:+$%[1]s,}%[2]s\"\n", name, loopback)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

var shellSafe = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)

// ShellQuote quotes s for a POSIX shell if it needs that.
func ShellQuote(s string) string {
	if shellSafe.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
