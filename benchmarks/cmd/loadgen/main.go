// Command loadgen is the client side of a benchmark. It connects clients, counts
// the messages that they receive, checks each client's messages for loss and
// order, and measures latencies. On Linux one thread reads all plain connections
// with epoll. TLS connections, and all connections on other operating systems,
// have a goroutine each.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/child"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/usage"
)

func main() {
	log.SetFlags(0)
	flag.Parse()
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	child.ExitWithParent()
	f, err := newFleet()
	if err != nil {
		return err
	}
	syncs, err := child.Listen()
	if err != nil {
		return err
	}
	control, err := child.Listen()
	if err != nil {
		return err
	}
	failed := make(chan error, 2) // each of the two goroutines below sends once; they end with the process
	go func() { failed <- acceptSyncs(syncs, f) }()
	go func() {
		s := &http.Server{Handler: controls(f), ReadHeaderTimeout: 30 * time.Second}
		failed <- s.Serve(control)
	}()
	if err := child.PrintReady(api.Ready{Control: control.Addr().String(), Sync: syncs.Addr().String()}); err != nil {
		return err
	}
	return <-failed
}

// acceptSyncs serves the sync connections of servers. The goroutine of a
// connection ends with the connection.
func acceptSyncs(l net.Listener, f *fleet) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go api.ServeSync(c, f.handleSync)
	}
}

func controls(f *fleet) http.Handler {
	mux := http.NewServeMux()
	child.Handle(mux, "/connect", func(_ context.Context, c api.Connect) (int, error) { return f.connect(c) })
	child.Handle(mux, "/subscribe", func(_ context.Context, s api.Subscribe) (api.Subscribed, error) { return f.subscribe(s) })
	child.Handle(mux, "/disconnect", func(context.Context, struct{}) (struct{}, error) { return struct{}{}, f.disconnect() })
	child.Handle(mux, "/reconnect", func(context.Context, struct{}) (struct{}, error) { return struct{}{}, f.reconnect(f.dial) })
	child.Handle(mux, "/wave", func(_ context.Context, w api.Wave) (api.WaveResult, error) { return f.wave(w) })
	child.Handle(mux, "/stats", func(context.Context, struct{}) (api.Stats, error) { return f.stats(), nil })
	child.Handle(mux, "/usage", func(context.Context, struct{}) (api.Usage, error) { return usage.CPU(), nil })
	child.Handle(mux, "/echo", func(ctx context.Context, e api.Echo) (api.EchoResult, error) {
		if e.Rate <= 0 || e.PerSend < 1 {
			return api.EchoResult{}, errors.New("echo needs a positive rate and at least one delivery per message")
		}
		return f.echo(ctx, e), nil
	})
	child.Handle(mux, "/churn", func(ctx context.Context, c api.Churn) (api.ChurnResult, error) {
		return churn(ctx, c)
	})
	child.Handle(mux, "/probe", func(ctx context.Context, p api.Probe) (api.ProbeResult, error) {
		return probe(ctx, p)
	})
	var roaming *roamers // the driver calls the next three one after the other
	child.Handle(mux, "/roam", func(_ context.Context, o api.Roam) (_ struct{}, err error) {
		roaming, err = roam(context.Background(), o)
		return struct{}{}, err
	})
	child.Handle(mux, "/nodes", func(_ context.Context, nodes []string) (struct{}, error) {
		roaming.balancer.set(nodes)
		return struct{}{}, nil
	})
	child.Handle(mux, "/roamed", func(context.Context, struct{}) (api.Roamed, error) { return roaming.end(), nil })
	return mux
}
