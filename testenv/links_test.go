package testenv_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cmkd/testenv/rig"
)

var markdownLink = regexp.MustCompile(`\[([^\]]+)\]\(([^)\s]+)\)`)

// TestLinks follows the relative links of all documents. One from a name in
// backquotes to a Go file leads to a function of that name.
func TestLinks(t *testing.T) {
	t.Parallel()
	root := rig.Root()
	links := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && path != root || entry.Name() == "testdata" || entry.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, link := range markdownLink.FindAllStringSubmatch(string(text), -1) {
			target, anchor, _ := strings.Cut(link[2], "#")
			if strings.Contains(target, ":") {
				continue
			}
			links++
			name, _ := filepath.Rel(root, path)
			file := path
			if target != "" {
				file = filepath.Join(filepath.Dir(path), target)
			}
			if problem := follow(file, anchor, link[1]); problem != "" {
				t.Errorf("%s: [%s](%s): %s", name, link[1], link[2], problem)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if links < 30 {
		t.Errorf("only %d links were found", links)
	}
}

// follow says what is wrong with a link, "" if nothing is.
func follow(file, anchor, text string) string {
	content, err := os.ReadFile(file)
	if err != nil {
		if info, statErr := os.Stat(file); statErr == nil && info.IsDir() {
			return ""
		}
		return err.Error()
	}
	function, quoted := strings.CutPrefix(text, "`")
	switch {
	case filepath.Ext(file) == ".md" && anchor != "" && !hasHeading(string(content), anchor):
		return "no such heading"
	case filepath.Ext(file) == ".go" && quoted && !declares(file, content, strings.TrimSuffix(function, "`")):
		return "no such function or variable there"
	}
	return ""
}

var notInAnchor = regexp.MustCompile(`[^a-z0-9 _-]`)

// hasHeading looks for the heading that Markdown renderers give the anchor to.
func hasHeading(text, anchor string) bool {
	for line := range strings.Lines(text) {
		heading := strings.TrimLeft(line, "#")
		if heading == line {
			continue
		}
		made := notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
		if strings.ReplaceAll(made, " ", "-") == anchor {
			return true
		}
	}
	return false
}

// declares reports whether a file of Go has a function, a method or a variable of that name.
func declares(path string, content []byte, name string) bool {
	file, err := parser.ParseFile(token.NewFileSet(), path, content, parser.SkipObjectResolution)
	if err != nil {
		return false
	}
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Name.Name == name {
				return true
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if v, ok := spec.(*ast.ValueSpec); ok && slices.ContainsFunc(v.Names, func(n *ast.Ident) bool { return n.Name == name }) {
					return true
				}
			}
		}
	}
	return false
}
