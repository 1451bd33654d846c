// Command server runs one system under test. The benchmark driver starts it,
// connects the load generator to it, and asks it to publish. The publisher
// therefore runs inside the server process, as it does in a real service.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/child"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/usage"
)

// options are the same for every system. A constructor returns an error for an
// option that its system does not support.
type options struct {
	deflate bool
	rooms   bool   // many small targets instead of one large target
	sealed  string // api.SealHub, api.SealClient or empty
	// history is the number of messages that target 0 keeps. Other targets keep none.
	history int
	// subscribe leaves it to the clients to subscribe. All connections then count as members.
	subscribe bool
	// awake keeps connections from hibernating.
	awake bool
	// presence tells the members of target 0 about each other.
	presence bool
	// engine is the URL of the engine of a cluster, or empty. All targets then have a
	// history if there is one.
	engine string
}

// keeps reports whether a target has a history.
func (o options) keeps(target int) bool { return o.history > 0 && (target == 0 || o.engine != "") }

// historyAge is how long a history keeps a message.
const historyAge = 5 * time.Minute

// system is a library under test. A target is one of its channels or rooms,
// given by a number.
type system interface {
	// ServeHTTP upgrades a connection and joins it to the target in the query.
	// Messages from the connection are published to that target.
	http.Handler
	// publish sends p to all members of a target. The system may keep p.
	publish(target int, p []byte) error
	// flush writes the messages that publish has held back to join them.
	flush()
	// members returns the number of connections that have joined and not left.
	members() int
}

// drainer is a system that can send its clients away.
type drainer interface {
	// ready responds with 200 while the system accepts clients.
	ready() http.Handler
	// drain returns when the clients are gone and the system has shut down.
	drain(ctx context.Context, o api.Drain) (api.Drained, error)
}

// systems has a constructor for each system, by name. Each system's file adds
// its own in init.
var systems = map[string]func(options) (system, error){}

// maxTargets is the largest number of targets.
const maxTargets = 1 << 14

// target returns the number of the target in the query.
func target(r *http.Request) (int, error) {
	t, err := strconv.Atoi(r.URL.Query().Get("target"))
	if err != nil || t < 0 || t >= maxTargets {
		return 0, fmt.Errorf("bad target %q", r.URL.Query().Get("target"))
	}
	return t, nil
}

// userName returns the name of the user that the connection in a query belongs to.
func userName(r *http.Request) string { return "user" + r.URL.Query().Get("client") }

// targetName returns the name of a target's channel or the ID of its room.
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
	list := flag.Bool("list", false, "print the systems in this binary and exit")
	var opt options
	flag.BoolVar(&opt.deflate, "deflate", false, "permessage-deflate, level 1")
	flag.BoolVar(&opt.rooms, "rooms", false, "many small targets")
	flag.StringVar(&opt.sealed, "sealed", "", "sign and encrypt messages: \"hub\" for one pair of keys, \"client\" for a key for each client")
	flag.IntVar(&opt.history, "history", 0, "number of messages that target 0 keeps")
	flag.BoolVar(&opt.subscribe, "subscribe", false, "leave it to the clients to subscribe")
	flag.BoolVar(&opt.presence, "presence", false, "tell the members of target 0 about each other")
	flag.StringVar(&opt.engine, "engine", "", "`URL` of the engine of a cluster, redis://... or nats://...")
	flag.Parse()
	if *list {
		fmt.Println(strings.Join(slices.Sorted(maps.Keys(systems)), " "))
		return nil
	}
	newSystem, ok := systems[*name]
	if !ok {
		return fmt.Errorf("unknown system %q; the systems are %s", *name, strings.Join(slices.Sorted(maps.Keys(systems)), ", "))
	}
	sys, err := newSystem(opt)
	if err != nil {
		return err
	}
	child.ExitWithParent()

	mux := http.NewServeMux()
	mux.Handle("/ws", sys)
	if d, ok := sys.(drainer); ok {
		mux.Handle("/ready", d.ready())
	}
	mux.HandleFunc("/hello", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
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
	if err := child.PrintReady(ready); err != nil {
		return err
	}
	return <-failed
}

// serve serves both listeners and returns a channel that receives the error of a
// listener that fails. Its goroutines end with the process.
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
	child.Handle(mux, "/usage", func(_ context.Context, collect bool) (api.Usage, error) {
		if collect {
			usage.CollectGarbage()
		}
		u := usage.CPU()
		usage.Memory(&u)
		u.Members = sys.members()
		return u, nil
	})
	child.Handle(mux, "/profile", func(_ context.Context, name string) (struct{}, error) { return struct{}{}, profile(name) })
	child.Handle(mux, "/drain", func(ctx context.Context, o api.Drain) (api.Drained, error) {
		d, ok := sys.(drainer)
		if !ok {
			return api.Drained{}, errors.New("this system does not drain")
		}
		return d.drain(ctx, o)
	})
	child.Handle(mux, "/members", func(context.Context, struct{}) (int, error) { return sys.members(), nil })
	return mux
}

// profile begins a CPU profile in a file, or ends it if name is empty.
func profile(name string) error {
	pprof.StopCPUProfile()
	if name == "" {
		return nil
	}
	f, err := os.Create(name) // closed when the process ends
	if err != nil {
		return err
	}
	return pprof.StartCPUProfile(f)
}

// versions returns the versions of Go and of the modules in this binary.
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
