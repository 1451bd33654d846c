// Command server runs one system under test. The benchmark driver starts it,
// has the load generator connect to it and tells it what to publish, so that
// the publisher runs inside the server, as a service's own would.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log"
	"maps"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/child"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/usage"
)

// options are the same for every system; one that cannot do something refuses.
type options struct {
	deflate bool
	rooms   bool   // many small targets rather than one large one
	sealed  string // api.SealHub, api.SealClient or empty
}

// system is what a benchmark knows about the thing that it measures.
type system interface {
	// ServeHTTP upgrades a connection and joins it to the target that the
	// query names. What such a connection sends is published to its target.
	http.Handler
	// publish sends p to everyone in a target. The system may keep p.
	publish(target int, p []byte) error
	// flush sends what publish holds back to make larger writes.
	flush()
	// members is how many connections have joined and not left.
	members() int
}

// systems has a constructor for each name; every system's file adds its own.
var systems = map[string]func(options) (system, error){}

// maxTargets bounds the targets of a run.
const maxTargets = 1 << 14

// target returns the index in the query.
func target(r *http.Request) (int, error) {
	t, err := strconv.Atoi(r.URL.Query().Get("target"))
	if err != nil || t < 0 || t >= maxTargets {
		return 0, fmt.Errorf("bad target %q", r.URL.Query().Get("target"))
	}
	return t, nil
}

// targetName is the channel's name or the room's ID.
func targetName(t int) string { return names[t] }

var names = func() (n [maxTargets]string) {
	for i := range n {
		n[i] = "t" + strconv.Itoa(i)
	}
	return n
}()

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	name := flag.String("system", "", "one of: "+strings.Join(slices.Sorted(maps.Keys(systems)), ", "))
	useTLS := flag.Bool("tls", false, "serve TLS")
	list := flag.Bool("list", false, "print the systems in this binary and stop")
	var opt options
	flag.BoolVar(&opt.deflate, "deflate", false, "permessage-deflate, level 1")
	flag.BoolVar(&opt.rooms, "rooms", false, "many small targets")
	flag.StringVar(&opt.sealed, "sealed", "", "hub or client keys")
	flag.Parse()
	if *list {
		fmt.Println(strings.Join(slices.Sorted(maps.Keys(systems)), " "))
		return nil
	}
	newSystem, ok := systems[*name]
	if !ok {
		return fmt.Errorf("no system %q; there are %s", *name, strings.Join(slices.Sorted(maps.Keys(systems)), ", "))
	}
	sys, err := newSystem(opt)
	if err != nil {
		return err
	}
	child.Obey()

	mux := http.NewServeMux()
	mux.Handle("/ws", sys)
	ws, err := child.Listen()
	if err != nil {
		return err
	}
	ready := api.Ready{WS: ws.Addr().String(), Versions: versions()}
	front := &http.Server{Handler: mux, ReadHeaderTimeout: 30 * time.Second}
	if *useTLS {
		if front.TLSConfig, ready.CertPEM, err = certificate(); err != nil {
			return err
		}
	}
	control, err := child.Listen()
	if err != nil {
		return err
	}
	ready.Control = control.Addr().String()
	failed := serve(front, ws, *useTLS, &http.Server{Handler: controls(sys), ReadHeaderTimeout: 30 * time.Second}, control)
	if err := child.Announce(ready); err != nil {
		return err
	}
	return <-failed
}

// serve serves both listeners until one fails. Its goroutines live as long as
// the process.
func serve(front *http.Server, ws net.Listener, useTLS bool, back *http.Server, control net.Listener) <-chan error {
	failed := make(chan error, 2) // each server sends once
	go func() {
		if useTLS {
			failed <- front.ServeTLS(ws, "", "")
		} else {
			failed <- front.Serve(ws)
		}
	}()
	go func() { failed <- back.Serve(control) }()
	return failed
}

func controls(sys system) http.Handler {
	mux := http.NewServeMux()
	child.Handle(mux, "/run", func(ctx context.Context, sc api.Scenario) (api.Outcome, error) {
		return publishAll(ctx, sys, sc)
	})
	child.Handle(mux, "/usage", func(_ context.Context, settle bool) (api.Usage, error) {
		if settle {
			usage.Settle()
		}
		u := usage.CPU()
		usage.Memory(&u)
		u.Members = sys.members()
		return u, nil
	})
	child.Handle(mux, "/members", func(context.Context, struct{}) (int, error) { return sys.members(), nil })
	return mux
}

// versions returns the modules in this binary.
func versions() map[string]string {
	v := map[string]string{}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v["go"] = info.GoVersion
	for _, d := range info.Deps {
		v[d.Path] = cmp.Or(d.Version, "(devel)")
	}
	return v
}
