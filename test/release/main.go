// Command release checks that the modules of this repository can be released
// at a version, and that programs can use them from there. It changes nothing
// in the repository unless -set is given.
//
//	go run . -version v0.2.0        # check
//	go run . -version v0.2.0 -set   # write the version into the go.mod files and the package of js
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/mod/semver"
)

// published are the directories of the modules that programs depend on, in the
// order in which they are to be tagged: a module comes after those that it requires.
var published = []string{".", "broker/nats", "broker/redis", "metrics/prometheus", "metrics/otel", "trace/otel"}

func main() {
	root := flag.String("root", "../..", "the repository")
	version := flag.String("version", "v0.1.0", "the version to release")
	set := flag.Bool("set", false, "write the version into the repository's files and stop")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *root, *version, *set)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "release-check:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root, version string, set bool) error {
	if !semver.IsValid(version) || semver.Canonical(version) != version {
		return fmt.Errorf("%q is not a version such as v0.1.0", version)
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	repo, err := openRepository(root)
	if err != nil {
		return err
	}
	if set {
		return repo.setVersion(version)
	}
	if err := repo.check(version); err != nil {
		return fmt.Errorf("%w\nmake release-set VERSION=%s writes this version everywhere", err, version)
	}
	temp, err := os.MkdirTemp("", "release-check-")
	if err != nil {
		return err
	}
	err = errors.Join(checkConsumers(ctx, repo, version, temp), os.RemoveAll(temp))
	if err != nil {
		return err
	}
	fmt.Printf("\nTo release %s, tag one commit with\n", version)
	for _, dir := range published {
		fmt.Println("  " + tag(dir, version))
	}
	return nil
}

// tag returns the name of the Git tag of the module in dir.
func tag(dir, version string) string {
	if dir == "." {
		return version
	}
	return dir + "/" + version
}

// checkConsumers serves the published modules from files, and builds and runs
// one program for each of them that fetches them from there.
func checkConsumers(ctx context.Context, repo *repository, version, temp string) error {
	proxy := filepath.Join(temp, "proxy")
	for _, dir := range published {
		if err := publish(repo, dir, version, proxy); err != nil {
			return fmt.Errorf("module %s: %w", dir, err)
		}
	}
	env, err := consumerEnv(ctx, proxy, filepath.Join(temp, "mod"), repo.modules["."].Module.Mod.Path)
	if err != nil {
		return err
	}
	for _, dir := range published {
		path := repo.modules[dir].Module.Mod.Path
		fmt.Printf("consumer of %s@%s\n", path, version)
		consumer := filepath.Join(temp, "consumer", strings.ReplaceAll(dir, "/", "-"))
		if err := runConsumer(ctx, env, dir, path+"@"+version, consumer); err != nil {
			return fmt.Errorf("a program that requires %s@%s: %w", path, version, err)
		}
	}
	return nil
}
