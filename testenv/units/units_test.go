// Package units_test boots systemd with the units of packaging/systemd.
package units_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"cmkd/testenv"
	"cmkd/testenv/rig"
	"cmkd/testenv/rsahsm"
)

// anything is the output of a check whose exit status says all.
const anything = `(?s).*`

// checks are the right exit status and output of each check of inside.sh.
var checks = []struct {
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
	{"outsider", 5, `(?s).*/run/cmkd/cmkd\.sock: permission denied.*`},

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

	{"score", 0, safe},
	{"walls", 0, probed("unit")},
	{"walls-plain", 0, probed("plain")},
	{"walls-network", 0, probed("network")},
	{"walls-device", 0, probed("device")},
	{"score-network", 0, safe},
	{"network-status", 0, `(?s)state +ok\n.*`},
	{"score-device", 0, safe},
	{"device-status", 0, `(?s)state +ok\n.*`},
	{"users-hidden", 3, `(?s).*no mapping in the user namespace.*`},
	{"features", 0, `(?s).*\nPASS`},

	{"bridge-start", 0, ``},
	{"bridge-score", 0, safe},
	{"bridge-call", 0, `PASS`},
	{"bridge-stranger", 1, `(?s).*The request signature we calculated does not match.*`},
	{"bridge-log", 1, ``}, // the secret is not in it
	{"bridge-tls-start", 0, ``},
	{"bridge-tls-call", 0, `PASS`},
	{"bridge-tls-stranger", 1, `(?s).*certificate signed by unknown authority.*`},
	{"bridge-stop", 0, ``},
	{"bridge-stopped", 0, `success`},

	{"ship-program", 0, ``},
	{"ship-program-taken", 0, `program:/bin/sh#[0-9a-f]{8}`},
	{"ship-program-same", 0, ``},
	{"ship-tls", 0, ``},
	{"ship-tls-walled", 0, `(?s)tls:127\.0\.0\.1:6514.*\n.+`},
	{"ship-tls-with", 0, ``},
	{"ship-tls-taken", 0, `tls:127\.0\.0\.1:6514.*`},
	{"ship-tls-same", 0, ``},
	{"ship-tls-score", 0, safe},
	{"ship-typo", 1, `(?s).*/bin/none.*`},
	{"ship-check", 1, `(?s).*audit\.ship: .*/bin/none.*`},
	{"ship-nothing", 0, `null`},

	{"pin-file", 0, `(?s)pin_file = "pin"\n.*`},
	{"credential-start", 0, ``},
	{"credential-status", 0, `(?s)state +ok\n.*`},
	{"credential-key", 0, `arn:aws:kms:us-east-1:123456789012:key/[-0-9a-f]{36}`},

	{"broken-start", 1, anything},
	{"broken-service", 0, `failed`},
	{"broken-socket", 0, `failed`},
	{"broken-reason", 0, `service-start-limit-hit`},
	{"broken-refused", 5, `(?s).*connection refused.*`},
	{"repaired-reset", 0, ``},
	{"repaired-enable", 0, anything},
	{"repaired-status", 0, `(?s)state +ok\n.*`},
	{"enabled", 0, "enabled\nenabled"},
	{"stop", 0, ``},
	{"stopped", 0, `success`},
}

var answerLine = regexp.MustCompile(`(?m)^--- ([-a-z]+) ([0-9]+)\n`)

// stage is the variable that tells the test binary, started once more in the
// container, what to do.
const stage = "CMKD_UNITS"

// TestUnits boots the machine's own tree in a container, with packaging/systemd as
// `make install` installs it, and checks what systemd makes of the units against what
// docs/operations.md promises.
func TestUnits(t *testing.T) {
	switch os.Getenv(stage) {
	case "features":
		features(t)
		return
	case "bridged":
		bridged(t)
		return
	}
	t.Parallel()
	dir, err := os.MkdirTemp("", "units-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var found, log bytes.Buffer
	cmd := testenv.InNamespace(t, []string{"PATH=" + os.Getenv("PATH"), "CMKD_LONG=" + os.Getenv("CMKD_LONG")}, filepath.Join(rig.Root(), "testenv/units/units.sh"),
		rig.Root(), rig.Binaries(t), tools(t), dir)
	cmd.Stdout, cmd.Stderr = &found, &log
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, &found, &log)
	}

	answers := answersIn(found.String())
	if os.Getenv("CMKD_LONG") != "" {
		logPrice(t, answers["price"].output)
		delete(answers, "price")
	}
	if len(answers) != len(checks) {
		t.Errorf("%d checks have run, %d are known here", len(answers), len(checks))
	}
	for _, want := range checks {
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

type answer struct {
	status int
	output string
}

// answersIn takes what inside.sh printed apart.
func answersIn(found string) map[string]answer {
	answers := map[string]answer{}
	starts := answerLine.FindAllStringSubmatchIndex(found, -1)
	for i, at := range starts {
		end := len(found)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		status, _ := strconv.Atoi(found[at[4]:at[5]])
		answers[found[at[2]:at[3]]] = answer{status, strings.TrimSpace(found[at[1]:end])}
	}
	return answers
}

// tools is a folder with what inside.sh runs besides cmkd: the probe, this test, and a
// module for what SoftHSM2 lacks.
func tools(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	module, _ := rsahsm.New(t, testenv.Module(t))
	for from, to := range map[string]string{
		self: "units.test", module: "rsahsm.so", filepath.Join(rig.Binaries(t), "flood"): "flood",
	} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "./testenv/units/probe")
	build.Dir, build.Env = rig.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the probe: %v\n%s", err, out)
	}
	return dir
}
