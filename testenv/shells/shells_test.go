// Package shells_test completes the command line of cmkctl in real shells, with what
// `make install` puts in place.
package shells_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/creack/pty"

	"cmkd/socket/client"
	"cmkd/testenv/rig"
)

// TestCompletion: an alias that the daemon has is completed in bash, zsh and fish.
func TestCompletion(t *testing.T) {
	t.Parallel()
	tree := install(t)
	r := rig.New(t, rig.Config{})
	c := client.New(r.Socket)
	made, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{
		AliasName: aws.String("alias/completed"), TargetKeyId: made.KeyMetadata.KeyId,
	}); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "CMKD_SOCKET="+r.Socket, "HOME="+t.TempDir(), "TERM=dumb", "TREE="+tree,
		"PATH="+filepath.Join(tree, "usr/bin")+":"+os.Getenv("PATH"))

	t.Run("bash", func(t *testing.T) {
		got := run(t, env, "bash", "--norc", "-c", `. /usr/share/bash-completion/bash_completion
			. "$TREE/usr/share/bash-completion/completions/cmkctl"
			COMP_LINE='cmkctl encrypt -k alias/comp' COMP_POINT=28 COMP_CWORD=3 COMP_TYPE=9 COMP_KEY=9
			COMP_WORDS=(cmkctl encrypt -k alias/comp)
			__start_cmkctl
			echo "${COMPREPLY[@]}"`)
		if strings.TrimSpace(got) != "alias/completed" {
			t.Errorf("bash completes %q", got)
		}
	})
	t.Run("fish", func(t *testing.T) {
		got := run(t, env, "fish", "--no-config", "-c", `source $TREE/usr/share/fish/vendor_completions.d/cmkctl.fish
			complete -C 'cmkctl encrypt -k alias/comp'`)
		if word, _, _ := strings.Cut(strings.TrimSpace(got), "\t"); word != "alias/completed" {
			t.Errorf("fish completes %q", got)
		}
	})
	t.Run("zsh", func(t *testing.T) { zsh(t, env) })
}

// zsh completes at a prompt only: it is typed to.
func zsh(t *testing.T, env []string) {
	shell := exec.CommandContext(t.Context(), "zsh", "-f", "-i")
	shell.Env = env
	terminal, err := pty.StartWithSize(shell, &pty.Winsize{Rows: 24, Cols: 200})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		terminal.Close()
		_ = shell.Process.Kill()
		_ = shell.Wait()
	})
	lines := make(chan []byte)
	go func() {
		defer close(lines)
		for {
			buf := make([]byte, 4096)
			n, err := terminal.Read(buf)
			if err != nil {
				return
			}
			lines <- buf[:n]
		}
	}()
	var seen bytes.Buffer
	until := func(text string) {
		t.Helper()
		late := time.After(2 * time.Minute)
		for !strings.Contains(seen.String(), text) {
			select {
			case more, ok := <-lines:
				if !ok {
					t.Fatalf("zsh has ended: %q", &seen)
				}
				seen.Write(more)
			case <-late:
				t.Fatalf("zsh shows no %q: %q", text, &seen)
			}
		}
		seen.Reset()
	}
	typed := func(text string) {
		t.Helper()
		if _, err := terminal.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	// The words of the answers are put together, since the terminal echoes.
	typed("fpath=($TREE/usr/share/zsh/vendor-completions $fpath); autoload -Uz compinit; compinit -u -D; echo rea''dy\n")
	until("ready")
	typed("cmkctl encrypt -k alias/comp\t")
	until("alias/completed")
}

// install puts what is to be tested into a folder.
func install(t *testing.T) string {
	t.Helper()
	tree := t.TempDir()
	run(t, os.Environ(), "make", "-s", "-C", rig.Root(), "install", "BIN="+rig.Binaries(t), "DESTDIR="+tree)
	return tree
}

func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = env
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", name, err, out, &errs)
	}
	return string(out)
}
