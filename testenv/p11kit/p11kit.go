// Package p11kit lets a test keep the PKCS#11 module in another process than
// the one that uses it, by p11-kit's remoting: what the module holds in its
// memory is then not in the memory of the process under test.
package p11kit

import (
	"bufio"
	_ "embed"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"cmkd/testenv"
	"cmkd/testenv/shim"
)

//go:embed tunnel/tunnel.c
var tunnel []byte

// clients are the places where distributions put the client half.
var clients = []string{
	"/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so",
	"/usr/lib/aarch64-linux-gnu/pkcs11/p11-kit-client.so",
	"/usr/lib64/pkcs11/p11-kit-client.so",
	"/usr/lib/pkcs11/p11-kit-client.so",
}

// Start serves the token's module by a p11-kit server that lives as long as
// the test. What it returns is the same token as another process sees it: its
// Module is the client half, its Env leads there and no longer has the real
// module's configuration. The server runs the module in one process of its own
// for each process that connects.
func Start(t testing.TB, tok *testenv.Token) *testenv.Token {
	t.Helper()
	module := shim.Compile(t, "tunnel-client", tunnel, "-DCLIENT", "-DMODULE="+strconv.Quote(client(t)))
	return serve(t, tok, shim.Compile(t, "tunnel-server", tunnel, "-DMODULE="+strconv.Quote(tok.Module)), module)
}

// Plain is Start with p11-kit's own client: it carries fewer mechanisms, and each
// C_GetFunctionList gives another instance of it.
func Plain(t testing.TB, tok *testenv.Token) *testenv.Token {
	t.Helper()
	return serve(t, tok, tok.Module, client(t))
}

// serve serves the token by one module, and returns it as seen through another.
func serve(t testing.TB, tok *testenv.Token, server, module string) *testenv.Token {
	t.Helper()
	socket := filepath.Join(shortDir(t), "socket")
	cmd := exec.CommandContext(t.Context(), "p11-kit", "server", "--foreground", "--name", socket,
		"--provider", server, "pkcs11:token="+url.PathEscape(tok.Label))
	cmd.Env = append(os.Environ(), tok.Env...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("p11-kit server: %v (is p11-kit installed? `make deps`)", err)
	}
	t.Cleanup(func() {
		// The processes that serve connections are in the group too.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	address, err := readAddress(bufio.NewScanner(out))
	if err != nil || address == "" {
		t.Fatalf("p11-kit server has not said its address: %v", err)
	}

	remote := *tok
	remote.Module = module
	remote.Env = []string{"P11_KIT_SERVER_ADDRESS=" + address}
	return &remote
}

// readAddress reads what the server prints for a shell, once it listens.
func readAddress(s *bufio.Scanner) (string, error) {
	for s.Scan() {
		if rest, ok := strings.CutPrefix(s.Text(), "P11_KIT_SERVER_ADDRESS="); ok {
			address, _, _ := strings.Cut(rest, ";")
			return address, nil
		}
	}
	return "", s.Err()
}

// client finds the client half. A test without it has failed.
func client(t testing.TB) string {
	t.Helper()
	for _, c := range clients {
		if _, err := os.Stat(c); err == nil {
			return c
		}
	}
	t.Fatalf("p11-kit's client module is not installed: none of %s is there. Run `make deps`.", strings.Join(clients, ", "))
	return ""
}

// shortDir is t.TempDir with a path short enough for a socket.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "p11kit")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
