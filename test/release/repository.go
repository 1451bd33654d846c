package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

// repository is the source tree. Its modules are read once.
type repository struct {
	root    string
	modules map[string]*modfile.File // by directory, with slashes
}

// skipped are the names of directories that no module contains.
var skipped = []string{".git", "node_modules"}

// openRepository reads every go.mod below root.
func openRepository(root string) (*repository, error) {
	repo := &repository{root: root, modules: map[string]*modfile.File{}}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains(skipped, entry.Name()) {
			return filepath.SkipDir
		}
		if entry.IsDir() || entry.Name() != "go.mod" {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := modfile.Parse(path, content, nil)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		repo.modules[filepath.ToSlash(dir)] = file
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, dir := range published {
		if repo.modules[dir] == nil {
			return nil, fmt.Errorf("no go.mod in %s", filepath.Join(root, dir))
		}
	}
	return repo, nil
}

// siblings calls f for each requirement of one of the repository's modules on
// another one, in a stable order.
func (r *repository) siblings(f func(dir string, file *modfile.File, required *modfile.Require)) {
	own := map[string]bool{}
	for _, file := range r.modules {
		own[file.Module.Mod.Path] = true
	}
	for _, dir := range slices.Sorted(maps.Keys(r.modules)) {
		for _, required := range r.modules[dir].Require {
			if own[required.Mod.Path] {
				f(dir, r.modules[dir], required)
			}
		}
	}
}

// check reports every requirement on another version of one of the repository's
// modules, every published module that requires an unpublished one, and another
// version in package.json and version.go.
func (r *repository) check(version string) error {
	isPublished := map[string]bool{}
	for _, dir := range published {
		isPublished[r.modules[dir].Module.Mod.Path] = true
	}
	var faults []error
	r.siblings(func(dir string, file *modfile.File, required *modfile.Require) {
		if required.Mod.Version != version {
			faults = append(faults, fmt.Errorf("%s/go.mod requires %s %s, but %s is to be released",
				dir, required.Mod.Path, required.Mod.Version, version))
		}
		if isPublished[file.Module.Mod.Path] && !isPublished[required.Mod.Path] {
			faults = append(faults, fmt.Errorf("%s/go.mod requires %s, which is not published", dir, required.Mod.Path))
		}
	})
	content, err := os.ReadFile(r.packageJSON())
	if err != nil {
		return errors.Join(append(faults, err)...)
	}
	var pkg struct{ Version string }
	if err := json.Unmarshal(content, &pkg); err != nil {
		faults = append(faults, fmt.Errorf("js/package.json: %w", err))
	} else if "v"+pkg.Version != version {
		faults = append(faults, fmt.Errorf("js/package.json has version %s, but %s is to be released", pkg.Version, version))
	}
	if content, err = os.ReadFile(r.versionGo()); err != nil {
		faults = append(faults, err)
	} else if !strings.Contains(string(content), constant(version)) {
		faults = append(faults, fmt.Errorf("version.go does not have %s", constant(version)))
	}
	return errors.Join(faults...)
}

// versionGo is the file with the version that the hub tells its clients.
func (r *repository) versionGo() string { return filepath.Join(r.root, "version.go") }

// constant is the declaration in version.go.
func constant(version string) string {
	return fmt.Sprintf("const version = %q", strings.TrimPrefix(version, "v"))
}

var anyConstant = regexp.MustCompile(`const version = "[^"]*"`)

func (r *repository) packageJSON() string { return filepath.Join(r.root, "js", "package.json") }

var jsonVersion = regexp.MustCompile(`"version": "[^"]*"`)

// setVersion writes version into every go.mod that requires one of the
// repository's modules, and into version.go, js/package.json and
// js/package-lock.json.
func (r *repository) setVersion(version string) error {
	var faults []error
	r.siblings(func(dir string, file *modfile.File, required *modfile.Require) {
		if err := file.AddRequire(required.Mod.Path, version); err != nil {
			faults = append(faults, err)
			return
		}
		content, err := file.Format()
		if err == nil {
			err = os.WriteFile(filepath.Join(r.root, dir, "go.mod"), content, 0o644)
		}
		faults = append(faults, err)
	})
	for name, places := range map[string]int{"package.json": 1, "package-lock.json": 2} {
		faults = append(faults, setJSONVersion(filepath.Join(r.root, "js", name), version, places))
	}
	content, err := os.ReadFile(r.versionGo())
	if err == nil {
		content = anyConstant.ReplaceAllLiteral(content, []byte(constant(version)))
		err = os.WriteFile(r.versionGo(), content, 0o644)
	}
	return errors.Join(append(faults, err)...)
}

// setJSONVersion replaces the first versions in a file of npm's. They are those
// of the package itself.
func setJSONVersion(path, version string, places int) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	found := jsonVersion.FindAllIndex(content, places)
	if len(found) < places {
		return fmt.Errorf("%s has no version", path)
	}
	for _, at := range slices.Backward(found) {
		content = slices.Replace(content, at[0], at[1], []byte(`"version": "`+strings.TrimPrefix(version, "v")+`"`)...)
	}
	return os.WriteFile(path, content, 0o644)
}
