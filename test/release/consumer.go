package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// programs holds a main.go for each published module.
//
//go:embed testdata/consumers
var programs embed.FS

// consumerEnv returns the environment of a program's go command. It takes the
// modules below ownPath from proxy and all others from where this machine takes
// them. It has a module cache of its own, so that nothing unpublished gets into
// the user's.
func consumerEnv(ctx context.Context, proxy, modCache, ownPath string) ([]string, error) {
	out, err := command(ctx, os.Environ(), "", "go", "env", "-json", "GOPROXY", "GOMODCACHE", "GONOSUMDB", "GOSUMDB", "GOTOOLCHAIN")
	if err != nil {
		return nil, err
	}
	var user map[string]string
	if err := json.Unmarshal([]byte(out), &user); err != nil {
		return nil, err
	}
	cached := filepath.Join(user["GOMODCACHE"], "cache", "download") // has the layout of a proxy
	return append(os.Environ(),
		"GOENV=off",
		"GOWORK=off",
		"GOFLAGS=-mod=mod -modcacherw",
		"GOMODCACHE="+modCache,
		"GOPROXY="+fileURL(proxy)+","+fileURL(cached)+","+user["GOPROXY"],
		"GOPRIVATE=",
		"GONOPROXY=", // with any value the go command looks in the module cache before it asks a proxy
		"GONOSUMDB="+strings.TrimSuffix(ownPath+","+user["GONOSUMDB"], ","),
		"GOSUMDB="+user["GOSUMDB"],
		"GOTOOLCHAIN="+user["GOTOOLCHAIN"],
	), nil
}

func fileURL(path string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // file:///C:/...
	}
	return "file://" + path
}

// runConsumer makes a module in dir with the program for the published module
// in moduleDir, requires query, and builds and runs it.
func runConsumer(ctx context.Context, env []string, moduleDir, query, dir string) error {
	name := moduleDir
	if moduleDir == "." {
		name = "root"
	}
	source, err := programs.ReadFile("testdata/consumers/" + name + "/main.go")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "main.go"), source, 0o644); err != nil {
		return err
	}
	for _, arguments := range [][]string{
		{"mod", "init", "consumer"},
		{"get", query},
		{"vet", "."},
		{"run", "."},
	} {
		out, err := command(ctx, env, dir, "go", arguments...)
		if err != nil {
			return err
		}
		if arguments[0] == "run" {
			fmt.Print("  ", out)
		}
	}
	return nil
}

// command runs a program and returns its standard output. An error contains its output.
func command(ctx context.Context, env []string, dir, name string, arguments ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, arguments...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(arguments, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.String(), nil
}
