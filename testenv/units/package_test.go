package units_test

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// packageChecks are the right answers of package.sh, in its order.
var packageChecks = []struct {
	name   string
	status int
	output string
}{
	{"install", 0, anything},
	{"not-enabled", 1, `disabled`},
	{"not-started", 3, "inactive\ninactive"},
	{"config", 0, "700 cmkd cmkd\n640 cmkd cmkd\n700 cmkd cmkd"},
	{"verify", 0, anything},
	{"page", 0, `(?s).*man1/cmkctl-key-create\.1\.gz.*man8/cmkd\.8\.gz.*man5/cmkd-config\.5\.gz`},
	{"init", 0, `(?s)cmkd is set up.*`},
	{"enable", 0, ``},
	{"before-call", 3, `inactive`},
	{"key", 0, `arn:aws:kms:us-east-1:123456789012:key/[-0-9a-f]{36}`},
	{"member", 0, `hello`},
	{"unit", 0, `\{"Plaintext":.*\}`},
	{"process", 0, `cmkd\nCapPrm: 0+\nCapEff: 0+\nCapBnd: 0+\nCapAmb: 0+`},
	{"score", 0, safe},
	{"reload-broken", 1, anything},
	{"reload", 0, ``},
	{"bridge", 0, ``},
	{"bridge-active", 0, `active`},
	{"timer", 0, ``},
	{"timer-active", 0, `active`},
	{"backup", 0, ``},
	{"backup-file", 0, `(?s)600 cmkd\n.* verifies\n.*`},
	{"backup-score", 0, safe},
	{"backup-skipped", 3, `status 0\nexec-condition\ninactive\ninactive`},
	{"restore", 0, `(?s)STATE .*restored\. Start.*`},
	{"older", 1, `(?s)the database does not verify: .*older copy.*`},
	{"accepted", 0, `the database is accepted: the daemon serves calls again`},
	{"restored", 0, `hello`},
	{"upgrade", 0, anything},
	{"upgraded", 0, `hello`},
	{"restarted", 0, ``},
	{"kept", 0, ``},
	{"remove", 0, anything},
	{"stopped", 0, ``},
	{"removed", 0, ``},
	{"again", 0, anything},
	{"again-start", 0, ``},
	{"again-open", 0, `hello`},
	{"purge", 0, `(?s).*cmkd: /var/lib/cmkd .* are left, and belong\n.*`},
	{"purged", 0, `(?s).*policies.*tokens.*cmkd\.db.*`},
}

// TestPackage makes the Debian packages twice, has lintian look at them, and
// installs, uses, upgrades, removes and purges them in a booted systemd.
func TestPackage(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "package-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tools, again := t.TempDir(), t.TempDir()
	bin := stripped(t)
	list := filepath.Join(dir, "sbom.json")
	first := buildPackages(t, bin, tools, "1", "")
	command(t, "sh", "-c", "dpkg-deb --fsys-tarfile "+first[0]+" | tar -xO ./usr/share/doc/cmkd/cmkd.cdx.json >"+list)
	checkLibc(t, bin, first[0])
	for i, other := range buildPackages(t, bin, again, "1", list) {
		command(t, "cmp", first[i], other)
	}
	if modules := string(read(t, list)); !strings.Contains(modules, `"bomFormat": "CycloneDX"`) || !strings.Contains(modules, "pkg:golang/modernc.org/sqlite@") {
		t.Errorf("the list of modules begins with %.200q", modules)
	}
	for _, file := range first {
		out, err := exec.CommandContext(t.Context(), "lintian", "--fail-on", "error", "--allow-root", file).CombinedOutput()
		if err != nil {
			t.Errorf("lintian: %v\n%s", err, out)
		}
	}
	newer := buildPackages(t, bin, again, "2", list)
	for from, to := range map[string]string{
		first[0]: "cmkd.deb", first[1]: "cmkd-softhsm.deb", newer[0]: "cmkd-newer.deb",
		filepath.Join(rig.Root(), "testenv/units/package.sh"): "inside.sh",
	} {
		if err := os.WriteFile(filepath.Join(tools, to), read(t, from), 0o755); err != nil {
			t.Fatal(err)
		}
	}

	var found, log bytes.Buffer
	cmd := testenv.InNamespace(t, []string{"PATH=" + os.Getenv("PATH")}, filepath.Join(rig.Root(), "testenv/units/units.sh"),
		rig.Root(), "-", tools, dir)
	cmd.Stdout, cmd.Stderr = &found, &log
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, &found, &log)
	}
	answers := answersIn(found.String())
	if len(answers) != len(packageChecks) {
		t.Errorf("%d checks have run, %d are known here", len(answers), len(packageChecks))
	}
	for _, want := range packageChecks {
		got, ok := answers[want.name]
		if !ok || got.status != want.status || !regexp.MustCompile(`\A(?:`+want.output+`)\z`).MatchString(got.output) {
			t.Errorf("%s: exit %d, want %d; want output like %q:\n%s", want.name, got.status, want.status, want.output, got.output)
		}
	}
	if t.Failed() {
		t.Logf("log:\n%s", &log)
	}
}

// buildPackages makes cmkd and cmkd-softhsm in a version.
func buildPackages(t *testing.T, bin, out, version, list string) []string {
	t.Helper()
	build := exec.CommandContext(t.Context(), filepath.Join(rig.Root(), "packaging/deb/build.sh"), bin, out)
	build.Env = append(os.Environ(), "DEB_VERSION="+version, "VERSION=v"+version, "SOURCE_DATE_EPOCH=1700000000", "SBOM="+list)
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build.sh: %v\n%s", err, text)
	}
	arch := strings.TrimSpace(command(t, "dpkg", "--print-architecture"))
	return []string{
		filepath.Join(out, "cmkd_"+version+"_"+arch+".deb"), filepath.Join(out, "cmkd-softhsm_"+version+"_all.deb"),
	}
}

// checkLibc: the package wants the libc6 whose symbols its programs have, no older and no newer one.
func checkLibc(t *testing.T, bin, file string) {
	t.Helper()
	programs, err := filepath.Glob(filepath.Join(bin, "cmk*"))
	if err != nil {
		t.Fatal(err)
	}
	newest := [2]int{}
	for _, path := range programs {
		program, err := elf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		symbols, err := program.ImportedSymbols()
		if err := errors.Join(err, program.Close()); err != nil && !errors.Is(err, elf.ErrNoSymbols) { // some are static
			t.Fatal(err)
		}
		for _, s := range symbols {
			var v [2]int
			if n, _ := fmt.Sscanf(s.Version, "GLIBC_%d.%d", &v[0], &v[1]); n == len(v) && slices.Compare(v[:], newest[:]) > 0 {
				newest = v
			}
		}
	}
	want := fmt.Sprintf("libc6 (>= %d.%d)", newest[0], newest[1])
	if depends := command(t, "dpkg-deb", "--field", file, "Depends"); newest[0] == 0 || !strings.Contains(depends, want) {
		t.Errorf("the package depends on %s, want %s", depends, want)
	}
}

// stripped is a folder of the programs without symbols, as `make deb` links them.
func stripped(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"cmkd", "cmkctl", "cmkd-symmetric", "cmkd-asymmetric", "cmkd-hmac"} {
		command(t, "strip", "-o", filepath.Join(dir, name), filepath.Join(rig.Binaries(t), name))
	}
	return dir
}
