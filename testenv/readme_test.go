package testenv_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cmkd/testenv"
	"cmkd/testenv/rig"
)

var fencedBlock = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")

// goProgram is what the Go lines of README.md are part of.
const goProgram = `package main

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/socket/client"
)

func main() {
	ctx, secret := context.Background(), []byte("secret")
	%s
	if err != nil {
		panic(err)
	}
	opened, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob})
	if err != nil {
		panic(err)
	}
	fmt.Println(string(opened.Plaintext))
}
`

// pythonProgram is what the Python lines are part of.
const pythonProgram = `import boto3, os
%s
sealed = kms.encrypt(KeyId="alias/app", Plaintext=b"secret")["CiphertextBlob"]
print(kms.decrypt(CiphertextBlob=sealed)["Plaintext"].decode())
`

// TestReadme runs the blocks of README.md as written, as root and as a user with
// sudo: those for the shell, but "make demo" and "make test", those in Go, and
// those in Python. Those for Node need a package that Debian does not have.
func TestReadme(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(rig.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	shell := 0
	for _, block := range fencedBlock.FindAllStringSubmatch(string(text), -1) {
		switch language, code := block[1], block[2]; language {
		case "sh":
			shell++
			files[fmt.Sprintf("%d.sh", shell)] = code
		case "go":
			files["main.go"] = fmt.Sprintf(goProgram, code)
		case "python":
			files["app.py"] = fmt.Sprintf(pythonProgram, code)
		}
	}
	if shell != 8 || len(files) != 10 || !strings.Contains(files["1.sh"], "make demo") {
		t.Fatalf("README.md has %d blocks for the shell and %d in all: readme.sh must know them", shell, len(files))
	}
	for _, user := range []string{"root", "tester"} {
		t.Run(user, func(t *testing.T) { runReadme(t, user, files) })
	}
}

func runReadme(t *testing.T, user string, files map[string]string) {
	dir, err := os.MkdirTemp("", "readme-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := testenv.InNamespace(t, []string{
		"PATH=" + os.Getenv("PATH"), "SOFTHSM2_MODULE=" + testenv.Module(t),
		"GOCACHE=" + goEnv(t, "GOCACHE"), "GOMODCACHE=" + goEnv(t, "GOMODCACHE"),
	}, filepath.Join(rig.Root(), "testenv", "readme.sh"), user, rig.Root(), dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("README.md runs for "+user)) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
