// Command bench compares the library with other libraries (the peers) and with
// the same work done without a library (the floors). It builds a server and a load
// generator, measures every system in turn for several rounds, and writes a table
// in Markdown and all samples in JSON.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

type config struct {
	rows, systems []string
	rounds        int
	quick         bool
	clients       int
	tags          string
	dir           string
	out           string
	profiles      string
}

func flags() (c config, err error) {
	var rowList, systemList string
	flag.StringVar(&rowList, "rows", "all", "rows to measure, separated by commas: all, "+strings.Join(rowNames(), ", "))
	flag.StringVar(&systemList, "systems", "all", "systems to measure, separated by commas: all, "+strings.Join(systemNames(), ", "))
	flag.IntVar(&c.rounds, "rounds", 3, "number of rounds; the table has their medians")
	flag.BoolVar(&c.quick, "quick", false, "short runs that check that everything works; the figures are rough")
	flag.IntVar(&c.clients, "clients", 1000, "number of clients in the rows that say 1,000")
	flag.StringVar(&c.tags, "tags", "", "build tags for the server; the tag noours leaves this library out")
	flag.StringVar(&c.dir, "dir", ".", "directory of the benchmarks module")
	flag.StringVar(&c.out, "out", "results", "write the report to `name`.md and name.json; if empty, only print it")
	flag.StringVar(&c.profiles, "profiles", "", "write CPU profiles of the server to this `directory`, one for each measurement")
	flag.Parse()
	if flag.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if c.rounds < 1 || c.rounds > 100 || c.clients < 10 || c.clients > 10000 {
		return c, errors.New("rounds must be 1 to 100 and clients 10 to 10,000")
	}
	if c.rows, err = choose("row", rowList, rowNames()); err != nil {
		return c, err
	}
	c.systems, err = choose("system", systemList, systemNames())
	return c, err
}

// choose returns the names in a list, in the order of known.
func choose(kind, list string, known []string) ([]string, error) {
	if list == "all" {
		return known, nil
	}
	want := strings.Split(list, ",")
	for _, w := range want {
		if !slices.Contains(known, w) {
			return nil, fmt.Errorf("unknown %s %q; known are %s", kind, w, strings.Join(known, ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(known), func(k string) bool { return !slices.Contains(want, k) }), nil
}

func run(ctx context.Context) error {
	cfg, err := flags()
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	b := &bench{config: cfg, server: filepath.Join(tmp, "server"), loadgen: filepath.Join(tmp, "loadgen"), engine: filepath.Join(tmp, "engine")}
	if err := build(ctx, cfg.dir, cfg.tags, b.server, "./cmd/server"); err != nil {
		return err
	}
	if err := build(ctx, cfg.dir, "", b.loadgen, "./cmd/loadgen"); err != nil {
		return err
	}
	if err := build(ctx, cfg.dir, "", b.engine, "./cmd/engine"); err != nil {
		return err
	}
	list, err := exec.CommandContext(ctx, b.server, "-list").Output()
	if err != nil {
		return fmt.Errorf("server -list: %w", err)
	}
	b.present = strings.Fields(string(list))

	rep := newReport(cfg)
	for _, name := range cfg.systems {
		if !slices.Contains(b.present, name) {
			rep.Missing = append(rep.Missing, name)
			log.Printf("%s is left out: the server was built without it", name)
		}
	}
	start := time.Now()
	for _, r := range rows {
		if slices.Contains(cfg.rows, r.name) {
			b.row(ctx, r, rep)
		}
		if ctx.Err() != nil {
			break
		}
	}
	rep.Took = time.Since(start).Round(time.Second).String()
	rep.Versions = b.versions
	rep.summarize()
	table := rep.markdown()
	fmt.Print(table)
	if cfg.out != "" {
		if err := rep.write(cfg.out, table); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return errors.New("interrupted; the report has the measurements so far")
	}
	if n := len(rep.Failures); n > 0 {
		return fmt.Errorf("%d runs failed; the report lists them", n)
	}
	return nil
}

func build(ctx context.Context, dir, tags, out, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", tags, "-o", out, pkg)
	cmd.Dir = dir
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, msg)
	}
	return nil
}

// bench measures rows.
type bench struct {
	config
	server, loadgen, engine string

	present  []string
	versions map[string]string
	rates    map[string]float64 // highest rate found by system; the next search begins there
}

// row measures one row: every system in each round. Each round begins with another
// system.
func (b *bench) row(ctx context.Context, r row, rep *report) {
	var with []spec
	for _, s := range specs {
		if slices.Contains(b.systems, s.name) && slices.Contains(b.present, s.name) && slices.Contains(r.systems, s.name) {
			with = append(with, s)
		}
	}
	for round := range b.rounds {
		for i := range with {
			s := with[(i+round)%len(with)]
			if ctx.Err() != nil {
				return
			}
			began := time.Now()
			results, err := b.once(ctx, r, s)
			for _, res := range results {
				rep.add(r.name, res.variant, s.name, res.sample)
				if res.note != "" {
					rep.Notes = append(rep.Notes, fmt.Sprintf("%s, %s, round %d: %s", r.name, s.name, round+1, res.note))
				}
				log.Printf("%-14s %-10s %-10s round %d  %s", r.name, res.variant, s.name, round+1, res.brief())
			}
			if err != nil && ctx.Err() == nil {
				rep.Failures = append(rep.Failures, fmt.Sprintf("%s, %s, round %d: %v", r.name, s.name, round+1, err))
				log.Printf("%-14s %-10s round %d failed after %s: %v", r.name, s.name, round+1, time.Since(began).Round(time.Millisecond), err)
			}
		}
	}
}

func (b *bench) once(ctx context.Context, r row, s spec) ([]result, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	return r.run(ctx, b, s)
}
