package websocket_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	pathpkg "path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	apiFile    = "testdata/api.txt"
	modulePath = "github.com/maoxiaoyue/hypgo-websocket"
)

// apiPackages are the directories of the packages whose API is compared.
var apiPackages = []string{".", "broker/nats", "broker/nats/embedded", "broker/redis", "brokertest", "client", "hubtest", "js", "metrics/otel", "metrics/prometheus", "trace/otel"}

// apiNamesOnly are packages of generated code. Only their exported names are compared.
var apiNamesOnly = []string{"proto", "proto/fbs"}

// TestAPI compares the exported API of the published packages with the list in
// testdata/api.txt, so that no change of the API goes unnoticed.
func TestAPI(t *testing.T) {
	t.Parallel()
	var made []string
	for _, dir := range slices.Sorted(slices.Values(slices.Concat(apiPackages, apiNamesOnly))) {
		made = append(made, packageAPI(t, dir, slices.Contains(apiNamesOnly, dir))...)
	}
	slices.Sort(made)
	made = slices.Compact(made)
	if *update {
		require.NoError(t, os.WriteFile(apiFile, []byte(strings.Join(made, "\n")+"\n"), 0o644))
	}
	content, err := os.ReadFile(apiFile)
	require.NoError(t, err)
	listed := strings.Split(strings.TrimSuffix(strings.ReplaceAll(string(content), "\r\n", "\n"), "\n"), "\n")
	var diff strings.Builder
	for _, line := range listed {
		if _, found := slices.BinarySearch(made, line); !found {
			fmt.Fprintln(&diff, "-", line)
		}
	}
	for _, line := range made {
		if !slices.Contains(listed, line) {
			fmt.Fprintln(&diff, "+", line)
		}
	}
	if diff.Len() > 0 {
		t.Errorf("the exported API differs from %s (- listed, + in the code):\n%s\nIf the change is meant, run make api and describe it in CHANGELOG.md.", apiFile, diff.String())
	} else if !slices.Equal(listed, made) {
		t.Errorf("%s is not sorted; run make api", apiFile)
	}
}

// packageAPI returns one line for each exported constant, variable, function,
// type, field and method of the package in dir. Declarations for other systems
// are listed too.
func packageAPI(t *testing.T, dir string, namesOnly bool) []string {
	t.Helper()
	importPath := pathpkg.Join(modulePath, dir)
	api := &apiList{t: t, prefix: "pkg " + importPath + ", ", namesOnly: namesOnly}
	files, err := filepath.Glob(filepath.Join(filepath.FromSlash(dir), "*.go"))
	require.NoError(t, err)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, declaration := range parsed.Decls {
			switch d := declaration.(type) {
			case *ast.FuncDecl:
				api.function(d)
			case *ast.GenDecl:
				api.general(d)
			}
		}
	}
	require.NotEmpty(t, api.lines, "no exported names in %s", dir)
	return api.lines
}

// apiList collects the lines of one package.
type apiList struct {
	t         *testing.T
	prefix    string
	namesOnly bool
	lines     []string
}

// add adds a line. The declaration may be a *ast.FieldList, an expression or nil.
func (l *apiList) add(head string, declaration any) {
	line := l.prefix + head
	if !l.namesOnly && declaration != nil {
		line += " " + l.source(declaration)
	}
	l.lines = append(l.lines, line)
}

var spaces = regexp.MustCompile(`\s+`)

// source prints a node on one line.
func (l *apiList) source(node any) string {
	l.t.Helper()
	var out bytes.Buffer
	require.NoError(l.t, printer.Fprint(&out, token.NewFileSet(), node))
	return spaces.ReplaceAllString(out.String(), " ")
}

func (l *apiList) function(d *ast.FuncDecl) {
	if !d.Name.IsExported() {
		return
	}
	signature := strings.TrimPrefix(l.source(d.Type), "func")
	if d.Type.TypeParams == nil {
		signature = strings.TrimPrefix(signature, " ")
	}
	head := "func " + d.Name.Name
	if d.Recv != nil {
		receiver := d.Recv.List[0].Type
		if !ast.IsExported(baseName(receiver)) {
			return
		}
		head = "method (" + l.source(receiver) + ") " + d.Name.Name
	}
	if !l.namesOnly {
		head += signature
	}
	l.add(head, nil)
}

// baseName returns the name of a receiver's or embedded field's type.
func baseName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return baseName(e.X)
	case *ast.IndexExpr:
		return baseName(e.X)
	case *ast.IndexListExpr:
		return baseName(e.X)
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func (l *apiList) general(d *ast.GenDecl) {
	var inherited *ast.ValueSpec // the last constants with a value; those that follow repeat it
	for i, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			l.typeSpec(s)
		case *ast.ValueSpec:
			if d.Tok == token.CONST && (len(s.Values) > 0 || s.Type != nil) {
				inherited = s
			}
			l.values(d.Tok, s, inherited, i)
		}
	}
}

// values adds constants with their types and values, and variables with their
// types where these are written.
func (l *apiList) values(tok token.Token, s, inherited *ast.ValueSpec, index int) {
	from := s
	if tok == token.CONST && inherited != nil {
		from = inherited
	}
	for i, name := range s.Names {
		if !name.IsExported() {
			continue
		}
		head := tok.String() + " " + name.Name
		if l.namesOnly {
			l.add(head, nil)
			continue
		}
		typ := from.Type
		if i < len(from.Values) && typ == nil && tok == token.VAR {
			if literal, ok := from.Values[i].(*ast.CompositeLit); ok {
				typ = literal.Type
			}
		}
		if typ != nil {
			head += " " + l.source(typ)
		}
		if i < len(from.Values) && tok == token.CONST {
			value := l.source(from.Values[i])
			if value == "iota" {
				value = strconv.Itoa(index)
			} else if strings.Contains(value, "iota") {
				value += fmt.Sprintf(" with iota = %d", index)
			}
			head += " = " + value
		}
		l.add(head, nil)
	}
}

func (l *apiList) typeSpec(s *ast.TypeSpec) {
	if !s.Name.IsExported() {
		return
	}
	head := "type " + s.Name.Name
	if s.TypeParams != nil && !l.namesOnly {
		var parameters []string
		for _, field := range s.TypeParams.List {
			for _, name := range field.Names {
				parameters = append(parameters, name.Name+" "+l.source(field.Type))
			}
		}
		head += "[" + strings.Join(parameters, ", ") + "]"
	}
	if s.Assign.IsValid() {
		l.add(head+" =", s.Type)
		return
	}
	switch structure := s.Type.(type) {
	case *ast.StructType:
		l.add(head+" struct", nil)
		l.members(s.Name.Name, "field", structure.Fields)
	case *ast.InterfaceType:
		l.add(head+" interface", nil)
		l.members(s.Name.Name, "interface", structure.Methods)
	default:
		l.add(head, s.Type)
	}
}

// members adds the exported fields or methods of a type, and says where an
// interface has others, which keep types of other packages from implementing it.
func (l *apiList) members(of, kind string, list *ast.FieldList) {
	if l.namesOnly {
		return
	}
	hidden := false
	for _, field := range list.List {
		typ := l.source(field.Type)
		if kind == "interface" {
			typ = strings.TrimPrefix(typ, "func")
		} else {
			typ = " " + typ
		}
		if field.Tag != nil {
			typ += " " + field.Tag.Value
		}
		if len(field.Names) == 0 {
			if name := baseName(field.Type); name == "" || ast.IsExported(name) || kind == "interface" {
				l.add(fmt.Sprintf("%s %s embeds %s", kind, of, strings.TrimSpace(typ)), nil)
			}
		}
		for _, name := range field.Names {
			if name.IsExported() {
				l.add(fmt.Sprintf("%s %s.%s%s", kind, of, name.Name, typ), nil)
			} else {
				hidden = true
			}
		}
	}
	if hidden && kind == "interface" {
		l.add("interface "+of+" has unexported methods", nil)
	}
}

// TestAPIPackages fails if a package of a published module is missing from the
// lists above. Programs, tests and internal packages are not part of the API.
func TestAPIPackages(t *testing.T) {
	t.Parallel()
	var found []string
	for _, root := range []string{".", "broker/nats", "broker/redis", "metrics/otel", "metrics/prometheus", "trace/otel"} {
		require.NoError(t, filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
			require.NoError(t, err)
			if !entry.IsDir() {
				return nil
			}
			for _, other := range []string{".git", "node_modules", "internal", "testdata", "examples", "docs", "test"} {
				if entry.Name() == other {
					return filepath.SkipDir
				}
			}
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil && name != root {
				return filepath.SkipDir
			}
			files, err := filepath.Glob(filepath.Join(name, "*.go"))
			require.NoError(t, err)
			if len(files) > 0 {
				found = append(found, filepath.ToSlash(name))
			}
			return nil
		}))
	}
	require.ElementsMatch(t, slices.Concat(apiPackages, apiNamesOnly), found)
}
