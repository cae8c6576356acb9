// Package recipes runs the programs of docs/data-keys.md as written.
package recipes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/rig"
)

var fencedBlock = regexp.MustCompile("(?ms)^```([a-z]+) (wrapped|plaintext)\n(.*?)^```$")

// recipe is a program of the page.
type recipe struct {
	language  string
	plaintext bool // it asks for data keys in the clear
	code      string
}

// recipes reads those of the page, and makes the one that the page describes only.
func recipes(t *testing.T) []recipe {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(rig.Root(), "docs/data-keys.md"))
	must(t, err)
	var out []recipe
	for _, block := range fencedBlock.FindAllStringSubmatch(string(text), -1) {
		r := recipe{block[1], block[2] == "plaintext", block[3]}
		out = append(out, r)
		if r.language == "go" {
			const with = `c, err := client.NewEnvelopeClient("") // $CMKD_SOCKET, or /run/cmkd/cmkd.sock
	if err != nil {
		return err
	}`
			if strings.Count(r.code, with) != 1 {
				t.Fatalf("the program in Go does not have\n%s", with)
			}
			out = append(out, recipe{"go", true, strings.Replace(r.code, with, `c := client.New("")`, 1)})
		}
	}
	if len(out) != 8 {
		t.Fatalf("%d recipes, want those of four languages, wrapped and in the clear", len(out))
	}
	return out
}

// TestRecipes runs each with plaintext_data_keys off and on.
func TestRecipes(t *testing.T) {
	t.Parallel()
	all := recipes(t)
	for _, setting := range []bool{false, true} {
		r := rig.New(t, rig.Config{PlaintextDataKeys: setting})
		key, err := r.Client("").CreateKey(t.Context(), &kms.CreateKeyInput{})
		must(t, err)
		_, err = r.Client("").CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/app"), TargetKeyId: key.KeyMetadata.KeyId})
		must(t, err)
		for _, recipe := range all {
			t.Run(fmt.Sprintf("%s, plaintext %t, asks for it %t", recipe.language, setting, recipe.plaintext), func(t *testing.T) {
				t.Parallel()
				out, err := recipe.run(t, r)
				switch {
				case recipe.plaintext && !setting:
					if err == nil || !strings.Contains(out, "plaintext_data_keys") {
						t.Errorf("in the clear: %s, %v", out, err)
					}
				case recipe.language == "python" && !recipe.plaintext && oldBoto(t):
					if err == nil || !strings.Contains(out, `Unknown parameter in input: "Recipient"`) {
						t.Errorf("with an old boto3: %s, %v", out, err)
					}
				case err != nil || out != "secret\n":
					t.Errorf("%s, %v", out, err)
				}
			})
		}
	}
}

// oldBoto reports whether boto3 does not know recipients.
func oldBoto(t *testing.T) bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "python3", "-c", `import boto3
print(tuple(map(int, boto3.__version__.split("."))) < (1, 26, 119))`).Output()
	must(t, err)
	return strings.TrimSpace(string(out)) == "True"
}

// run runs a program in a folder of its own, with what it needs there.
func (r recipe) run(t *testing.T, daemon *rig.Rig) (string, error) {
	t.Helper()
	dir, bin := t.TempDir(), rig.Binaries(t)
	must(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("secret\n"), 0o600))
	bridge := []string{filepath.Join(bin, "cmkctl"), "bridge", "--"}
	var name string
	var command []string
	switch r.language {
	case "sh":
		name, command = "recipe.sh", []string{"bash", "-euo", "pipefail", "recipe.sh"}
	case "python":
		name, command = "recipe.py", []string{"python3", "recipe.py"}
	case "js":
		name, command = "recipe.mjs", []string{"node", "recipe.mjs"}
		must(t, os.Symlink(filepath.Join(rig.Root(), ".cache/javascript/node_modules"), filepath.Join(dir, "node_modules")))
	case "go":
		name, command = "recipe.go", []string{"./recipe"}
	}
	must(t, os.WriteFile(filepath.Join(dir, name), []byte(r.code), 0o600))
	if r.language == "go" {
		build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "recipe"), filepath.Join(dir, name))
		build.Dir = rig.Root()
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%s, %v", out, err)
		}
	} else {
		command = append(bridge, command...)
	}
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "CMKD_SOCKET="+daemon.Socket, "AWS_REGION="+rig.Region, "AWS_DEFAULT_REGION="+rig.Region, "AWS_PAGER=", "NODE_NO_WARNINGS=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
