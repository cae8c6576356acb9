// Package spy makes a PKCS#11 module that has been taken over: it tries to read
// other files, to reach the network, to run programs and to get at the daemon,
// and reports what came of it.
package spy

import (
	_ "embed"
	"os"
	"strings"
	"testing"

	"cmkd/testenv/shim"
)

//go:embed module/spy.c
var source []byte

// Build compiles the module into a folder of the test and returns its path.
// Its environment is described in module/spy.c.
func Build(t testing.TB) string {
	t.Helper()
	return shim.Compile(t, "spy", source)
}

// Report reads what the module has written: the result by attempt.
func Report(t testing.TB, path string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	results := map[string]string{}
	for line := range strings.Lines(string(text)) {
		attempt, result, _ := strings.Cut(strings.TrimSpace(line), " ")
		results[attempt] = result
	}
	return results
}
