package guide

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// guideText returns docs/guide.md.
func guideText(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/guide.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// recipes returns each function of this package with its comment, as it stands in its file.
func recipes(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				all[f.Name.Name] = string(text[set.Position(f.Doc.Pos()).Offset:set.Position(f.End()).Offset])
			}
		}
	}
	return all
}

// TestGuideQuotes: the Go code of the guide is the recipes of this package, word for word.
func TestGuideQuotes(t *testing.T) {
	quoted := regexp.MustCompile("(?s)```go\n(.*?)\n```").FindAllStringSubmatch(guideText(t), -1)
	all := recipes(t)
	if len(all) < 10 {
		t.Fatalf("%d recipes", len(all))
	}
	for _, q := range quoted {
		rest := q[1]
		for name, code := range all {
			if strings.Contains(rest, code) {
				rest = strings.Replace(rest, code, "", 1)
				delete(all, name)
			}
		}
		if strings.TrimSpace(rest) != "" {
			t.Errorf("no recipe of this package:\n%s", rest)
		}
	}
	for name := range all {
		t.Errorf("the guide does not have %s", name)
	}
}

// TestGuideNamesTests: the tests that the guide names exist.
func TestGuideNamesTests(t *testing.T) {
	named := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(guideText(t), -1)
	if len(named) == 0 {
		t.Fatal("the guide names no test")
	}
	exist := testsOf(t, "../..")
	for _, n := range named {
		if !exist[n[1]] {
			t.Errorf("no test %s", n[1])
		}
	}
}

// testsOf returns the names of the tests below a folder.
func testsOf(t *testing.T, root string) map[string]bool {
	t.Helper()
	declared, exist := regexp.MustCompile(`(?m)^func (Test\w+)\(`), make(map[string]bool)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(text, -1) {
			exist[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return exist
}
