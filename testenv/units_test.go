package testenv_test

import (
	"bytes"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"cmkd/testenv/rig"
)

// anything is the output of a check whose exit status says all.
const anything = `(?s).*`

// unitChecks are the right exit status and output of each check of units-inside.sh.
var unitChecks = []struct {
	name   string
	status int
	output string // a regular expression for all of it
}{
	{"sysusers", 0, anything},
	{"user", 0, `cmkd`},
	{"init", 0, `(?s)cmkd is set up.*`},
	{"daemon-reload", 0, ``},
	{"verify", 0, anything},
	{"start-limit", 0, "Restart=on-failure\nRestartUSec=5s\nStartLimitIntervalUSec=1h\nStartLimitBurst=100"},

	{"socket-start", 0, ``},
	{"socket", 0, `660 cmkd cmkd`},
	{"before-call", 3, `inactive`},
	{"status", 0, `(?s)state +ok\n.*keys +0\n.*`},
	{"after-call", 0, `active`},
	{"process", 0, `cmkd\n(group (cmkd|softhsm)\n){1,2}` +
		`CapPrm: 0+\nCapEff: 0+\nCapBnd: 0+\nCapAmb: 0+\nNoNewPrivs: 1`},
	{"key", 0, `arn:aws:kms:us-east-1:123456789012:key/[-0-9a-f]{36}`},
	{"member", 0, `hello`},
	{"outsider", 1, `(?s).*/run/cmkd/cmkd\.sock: permission denied.*`},

	{"unit-role", 1, `(?s)\{"Plaintext":.*assumed-role/app/app is not authorized to perform: kms:CreateKey.*`},
	{"unit-other", 1, `(?s)[^{}]*user/app is not authorized to perform: kms:GenerateRandom.*`},
	{"reload", 0, ``},
	{"unit-role-reloaded", 0, `(?s)\{"Plaintext":.*arn:aws:kms:us-east-1:123456789012:key/[-0-9a-f]{36}`},
	{"reload-typo", 1, `(?s).*cmkd\.service.*`},
	{"status-typo", 1, `(?s)state +degraded\n.*use\.json.*`},
	{"active-typo", 0, `active`},
	{"reload-again", 0, ``},
	{"status-again", 0, `(?s)state +ok\n.*`},
	{"restarts", 0, `0`},

	{"pin-file", 0, `pin_file = "pin"`},
	{"credential-start", 0, ``},
	{"credential-status", 0, `(?s)state +ok\n.*`},
	{"credential-key", 0, `arn:aws:kms:us-east-1:123456789012:key/[-0-9a-f]{36}`},

	{"broken-start", 1, anything},
	{"broken-service", 0, `failed`},
	{"broken-socket", 0, `failed`},
	{"broken-reason", 0, `service-start-limit-hit`},
	{"broken-refused", 1, `(?s).*connection refused.*`},
	{"repaired-reset", 0, ``},
	{"repaired-enable", 0, anything},
	{"repaired-status", 0, `(?s)state +ok\n.*`},
	{"enabled", 0, "enabled\nenabled"},
	{"stop", 0, ``},
	{"stopped", 0, `success`},
}

var unitAnswer = regexp.MustCompile(`(?m)^--- ([-a-z]+) ([0-9]+)\n`)

// TestUnits boots the machine's own tree in a container, with packaging/systemd as
// `make install` installs it, and holds what systemd makes of the units against what
// docs/operations.md promises.
func TestUnits(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "units-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var found, log bytes.Buffer
	cmd := inNamespace(t, []string{"PATH=" + os.Getenv("PATH")}, "units.sh", rig.Root(), rig.Binaries(t), dir)
	cmd.Stdout, cmd.Stderr = &found, &log
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, &found, &log)
	}

	type answer struct {
		status int
		output string
	}
	answers := map[string]answer{}
	starts := unitAnswer.FindAllStringSubmatchIndex(found.String(), -1)
	for i, at := range starts {
		end := found.Len()
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		status, _ := strconv.Atoi(found.String()[at[4]:at[5]])
		answers[found.String()[at[2]:at[3]]] = answer{status, strings.TrimSpace(found.String()[at[1]:end])}
	}
	if len(answers) != len(unitChecks) {
		t.Errorf("%d checks have run, %d are known here", len(answers), len(unitChecks))
	}
	for _, want := range unitChecks {
		t.Run(want.name, func(t *testing.T) {
			got, ok := answers[want.name]
			switch {
			case !ok:
				t.Error("has not run")
			case got.status != want.status || !regexp.MustCompile(`\A(?:`+want.output+`)\z`).MatchString(got.output):
				t.Errorf("exit %d, want %d; want output like %q:\n%s", got.status, want.status, want.output, got.output)
			}
		})
	}
	if t.Failed() {
		t.Logf("log:\n%s", &log)
	}
}
