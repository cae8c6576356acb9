package shells_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cmkd/testenv/rig"
)

// TestPages: cmkd(8) has every option of the program and no other, the page of the
// configuration all of the example.
func TestPages(t *testing.T) {
	t.Parallel()
	pages := filepath.Join(install(t), "usr/share/man")
	help, err := exec.CommandContext(t.Context(), filepath.Join(rig.Binaries(t), "cmkd"), "-help").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	has := names(`(?m)^  -([a-z-]+)`, string(help))
	if described := names(`(?m)^\.It Fl ([a-z-]+)`, read(t, pages, "man8/cmkd.8")); !slices.Equal(has, described) || len(has) == 0 {
		t.Errorf("cmkd has the options %q, its page %q", has, described)
	}
	page := strings.NewReplacer(`\-`, `-`, `\e`, `\`, `\&`, ``).Replace(read(t, pages, "man5/cmkd-config.5"))
	if !strings.Contains(page, ".nf\n"+read(t, rig.Root(), "config.example.toml")+".fi\n") {
		t.Error("the page of the configuration is not that of config.example.toml")
	}
	if text := read(t, pages, "man1/cmkctl-key-create.1"); !strings.Contains(text, `.TH "CMKCTL-KEY-CREATE" "1"`) {
		t.Errorf("a page of cmkctl begins with %.100q", text)
	}
}

// TestVersions: all programs are of one release.
func TestVersions(t *testing.T) {
	t.Parallel()
	bin := rig.Binaries(t)
	found := map[string]bool{}
	for _, program := range []string{"cmkd", "cmkctl", "cmkd-symmetric", "cmkd-asymmetric", "cmkd-hmac"} {
		flag := "-version"
		if program == "cmkctl" {
			flag = "version"
		}
		out := run(t, os.Environ(), filepath.Join(bin, program), flag)
		release, ok := strings.CutPrefix(out, program+" ")
		if !ok {
			t.Errorf("%s says %q", program, out)
		}
		found[release] = true
	}
	if len(found) != 1 {
		t.Errorf("the programs are of %q", slices.Collect(maps.Keys(found)))
	}
}

// names are all that a pattern finds, sorted.
func names(pattern, text string) []string {
	found := map[string]bool{}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found[m[1]] = true
	}
	return slices.Sorted(maps.Keys(found))
}

func read(t *testing.T, folder, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
