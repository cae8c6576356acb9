package testenv

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestMakefile: each pattern of tests and benchmarks that the Makefile runs fits one in the
// packages that it names. `go test` is content with a pattern that fits nothing.
func TestMakefile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	runs := regexp.MustCompile(`go test .*-(?:run|bench) '?\^?([\w(][^ ']*?)(?:\$\$)?(?:/\S+)?'?((?: -\S+(?: [\dx]+)?)*)((?: \./\S+)+)`).FindAllStringSubmatch(string(text), -1)
	if len(runs) < 10 {
		t.Fatalf("only %d patterns found", len(runs))
	}
	for _, run := range runs {
		pattern, err := regexp.Compile(strings.ReplaceAll(run[1], "$$", "$"))
		if err != nil {
			t.Errorf("%s: %v", run[0], err)
			continue
		}
		for _, folder := range strings.Fields(run[3]) {
			if !fits(t, filepath.Join("..", folder), pattern) {
				t.Errorf("%s has no test or benchmark that fits %s: %s", folder, pattern, run[0])
			}
		}
	}
}

// fits reports whether a package has a test or benchmark whose name fits.
func fits(t *testing.T, folder string, name *regexp.Regexp) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && regexp.MustCompile(`^(Test|Benchmark)`).MatchString(f.Name.Name) && name.MatchString(f.Name.Name) {
				return true
			}
		}
	}
	return false
}
