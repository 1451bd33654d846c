package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree writes a repository whose modules require version and returns its root.
func tree(t *testing.T, version string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":                    "module example.com/hub\n\ngo 1.25.0\n",
		"hub.go":                    "package hub\n",
		"broker/nats/go.mod":        "module example.com/hub/broker/nats\n\nrequire example.com/hub " + version + "\n\nreplace example.com/hub => ../..\n",
		"broker/redis/go.mod":       "module example.com/hub/broker/redis\n\nrequire example.com/hub " + version + "\n",
		"metrics/prometheus/go.mod": "module example.com/hub/metrics/prometheus\n\nrequire example.com/hub " + version + "\n",
		"metrics/otel/go.mod":       "module example.com/hub/metrics/otel\n\nrequire example.com/hub " + version + "\n",
		"trace/otel/go.mod":         "module example.com/hub/trace/otel\n\nrequire example.com/hub " + version + "\n",
		"examples/gin/go.mod":       "module example.com/hub/examples/gin\n\nrequire example.com/hub " + version + "\n",
		"js/package.json":           `{"name": "hub", "version": "` + strings.TrimPrefix(version, "v") + `"}`,
		"version.go":                "package hub\n\nconst version = \"" + strings.TrimPrefix(version, "v") + "\"\n",
		"js/package-lock.json":      `{"version": "0.0.1", "packages": {"": {"version": "0.0.1"}, "node_modules/ws": {"version": "8.0.0"}}}`,
		"js/node_modules/ws/a.js":   "",
	} {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func open(t *testing.T, root string) *repository {
	t.Helper()
	repo, err := openRepository(root)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

func TestCheckReportsOtherVersions(t *testing.T) {
	repo := open(t, tree(t, "v0.1.0"))
	if err := repo.check("v0.1.0"); err != nil {
		t.Errorf("the same version: %v", err)
	}
	err := repo.check("v0.2.0")
	if err == nil {
		t.Fatal("no error for another version")
	}
	for _, want := range []string{
		"broker/nats/go.mod requires example.com/hub v0.1.0, but v0.2.0 is to be released",
		"broker/redis/go.mod requires",
		"trace/otel/go.mod requires",
		"examples/gin/go.mod requires",
		"js/package.json has version 0.1.0",
		`version.go does not have const version = "0.2.0"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in\n%v", want, err)
		}
	}
}

func TestCheckReportsUnpublishedRequirement(t *testing.T) {
	root := tree(t, "v0.1.0")
	goMod := "module example.com/hub/broker/redis\n\nrequire example.com/hub/examples/gin v0.1.0\n"
	if err := os.WriteFile(filepath.Join(root, "broker", "redis", "go.mod"), []byte(goMod), 0o644); err != nil {
		t.Fatal(err)
	}
	err := open(t, root).check("v0.1.0")
	if err == nil || !strings.Contains(err.Error(), "requires example.com/hub/examples/gin, which is not published") {
		t.Errorf("got %v", err)
	}
}

func TestSetVersion(t *testing.T) {
	root := tree(t, "v0.1.0")
	if err := open(t, root).setVersion("v0.2.0"); err != nil {
		t.Fatal(err)
	}
	repo := open(t, root)
	if err := repo.check("v0.2.0"); err != nil {
		t.Error(err)
	}
	if len(repo.modules["broker/nats"].Replace) != 1 {
		t.Error("the replace directive is gone")
	}
	lock, err := os.ReadFile(filepath.Join(root, "js", "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"version": "0.2.0", "packages": {"": {"version": "0.2.0"}, "node_modules/ws": {"version": "8.0.0"}}}`; string(lock) != want {
		t.Errorf("package-lock.json is %s", lock)
	}
}

func TestModuleFilesStopAtNestedModules(t *testing.T) {
	files, err := moduleFiles(tree(t, "v0.1.0"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Path())
	}
	slices.Sort(names)
	if want := []string{"go.mod", "hub.go", "js/package-lock.json", "js/package.json", "version.go"}; !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}
