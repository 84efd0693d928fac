package bypass

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// reasonNames are the constants of reason.go, in order, with their doc comments.
func reasonNames(t *testing.T) (names []string, docs []string) {
	f, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, parser.ParseComments)
	require.NoError(t, err)
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			if name := v.Names[0].Name; strings.HasPrefix(name, "Reason") {
				names, docs = append(names, name), append(docs, v.Doc.Text())
			}
		}
	}
	return names, docs
}

// mentions tells which Reasons each test function of a folder names. Tests are named
// "folder.TestX", those of the root "TestX".
func mentions(t *testing.T, dir, prefix string) map[string]map[string]bool {
	tests := map[string]map[string]bool{}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	require.NoError(t, err)
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		require.NoError(t, err)
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			named := map[string]bool{}
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok {
					named[id.Name] = true
				}
				return true
			})
			tests[prefix+fn.Name.Name] = named
		}
	}
	// A test also reaches what the functions that it calls by name require.
	for _, named := range tests {
		for callee := range named {
			for r := range tests[prefix+callee] {
				if strings.HasPrefix(r, "Reason") {
					named[r] = true
				}
			}
		}
	}
	return tests
}

// docs/reasons.md has a row for each Reason, in order, in the code's own words, and
// names a test that is there and that looks for this Reason.
func TestReasonsAreDocumented(t *testing.T) {
	names, docs := reasonNames(t)
	require.Len(t, names, int(reasons))
	tests := mentions(t, ".", "bypass.")
	for name, named := range mentions(t, "..", "") {
		tests[name] = named
	}
	text, err := os.ReadFile(filepath.Join("..", "docs", "reasons.md"))
	require.NoError(t, err)
	var rows [][]string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| `Reason") {
			rows = append(rows, strings.Split(strings.Trim(strings.TrimSpace(line), "| "), " | "))
		}
	}
	require.Len(t, rows, len(names), "a row for each Reason")
	words := func(s string) string { return map[bool]string{true: "—", false: s}[s == ""] }
	for i, row := range rows {
		r := Reason(i)
		require.Len(t, row, 5, names[i])
		require.Equal(t, "`"+names[i]+"`", row[0])
		require.Equal(t, words(r.String()), row[1], names[i])
		require.Equal(t, words(r.Remedy()), row[2], names[i])
		require.NotEmpty(t, row[3], names[i])
		test := strings.Trim(row[4], "`")
		require.Contains(t, tests, test, names[i])
		require.True(t, tests[test][names[i]], "%s does not look for %s", test, names[i])
		require.True(t, strings.HasPrefix(docs[i], names[i]+": "), "%s: its comment says when it is given", names[i])
		if r != ReasonNone {
			require.Contains(t, docs[i], "(by", "%s: its comment says by whom", names[i])
		}
	}
}

// testsByFolder are the test functions of all packages, as docs name them.
func testsByFolder(t *testing.T) map[string]bool {
	tests := map[string]bool{}
	require.NoError(t, filepath.WalkDir("..", func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if d.Name() == ".git" || d.Name() == "testdata" {
			return fs.SkipDir
		}
		prefix, err := filepath.Rel("..", dir)
		if prefix += "."; prefix == ".." { // the root
			prefix = ""
		}
		for name := range mentions(t, dir, filepath.ToSlash(prefix)) {
			tests[name] = true
		}
		return err
	}))
	return tests
}

// The tests that docs/traps.md and docs/threat-model.md name are there, and each trap
// has some, or says what is open.
func TestDocumentsNameTests(t *testing.T) {
	tests := testsByFolder(t)
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("..", "docs", name))
		require.NoError(t, err)
		return string(text)
	}
	traps := regexp.MustCompile(`(?m)^\*\*(\d+)\. `).FindAllStringSubmatchIndex(read("traps.md"), -1)
	require.Len(t, traps, 46)
	named := regexp.MustCompile("`((?:[a-z0-9/]+\\.)?Test[A-Za-z0-9]+)`")
	text := read("traps.md")
	for i, at := range traps {
		end := len(text)
		if i+1 < len(traps) {
			end = traps[i+1][0]
		}
		section := text[at[0]:end]
		require.Equal(t, strconv.Itoa(i+1), text[at[2]:at[3]])
		found := named.FindAllStringSubmatch(section, -1)
		require.True(t, len(found) > 0 || strings.Contains(section, "Open:"), section)
		require.Equal(t, len(found) > 0, strings.Contains(section, "Tests: "), section)
		for _, f := range found {
			require.True(t, tests[f[1]], "trap %d: there is no %s", i+1, f[1])
		}
	}
	// The threat model names tests without their folders; "…" stands for the rest of a name.
	names := regexp.MustCompile(`\*(Test|Fuzz)[A-Za-z0-9]+…?\*`).FindAllString(read("threat-model.md"), -1)
	require.NotEmpty(t, names)
	for _, name := range names {
		name = strings.Trim(name, "*")
		start, short := strings.CutSuffix(name, "…")
		require.True(t, slices.ContainsFunc(slices.Collect(maps.Keys(tests)), func(test string) bool {
			test = test[strings.LastIndexByte(test, '.')+1:]
			return test == name || short && strings.HasPrefix(test, start)
		}), "there is no %s", name)
	}
}
