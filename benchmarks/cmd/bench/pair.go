package main

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/child"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/usage"
)

// setup describes a server and its clients. Zero sizes and targets mean defaults.
type setup struct {
	clients int
	targets int // number of channels or rooms; 0 means 1
	size    int // bytes of payload; 0 means 128
	stalled int // number of clients that never read
	tls     bool
	deflate bool
	sealed  string // api.SealHub, api.SealClient or empty
	history int    // number of messages that target 0 keeps
	// subscribe leaves it to the clients to subscribe.
	subscribe bool
	presence  bool // tells the members of target 0 about each other
}

func (s setup) withDefaults() setup {
	s.targets = cmp.Or(s.targets, 1)
	s.size = cmp.Or(s.size, 128)
	return s
}

// pair is a server and a load generator.
type pair struct {
	setup
	spec spec
	srv  *child.Process
	gen  *child.Process
	note string // the load generator's first error

	profiles string // the directory for CPU profiles of the server, or empty
	profile  int    // number of profiles
}

// start starts the processes. No clients connect yet.
func (b *bench) start(ctx context.Context, s spec, set setup) (*pair, error) {
	p := &pair{setup: set.withDefaults(), spec: s, profiles: b.profiles}
	args := []string{"-system", s.name}
	if set.tls {
		args = append(args, "-tls")
	}
	if set.deflate {
		args = append(args, "-deflate")
	}
	switch {
	case set.history > 0:
		args = append(args, "-history", strconv.Itoa(set.history))
	case p.targets > 1:
		args = append(args, "-rooms")
	}
	if set.presence {
		args = append(args, "-presence")
	}
	if set.subscribe {
		args = append(args, "-subscribe")
	}
	if set.sealed != "" {
		args = append(args, "-sealed", set.sealed)
	}
	var err error
	if p.srv, err = child.Start(ctx, b.server, args...); err != nil {
		return nil, err
	}
	b.versions = p.srv.Ready.Versions
	if p.gen, err = child.Start(ctx, b.loadgen); err != nil {
		p.srv.Stop()
		return nil, err
	}
	return p, nil
}

func (p *pair) stop() {
	p.gen.Stop()
	p.srv.Stop()
}

// connected starts the processes and connects the clients.
func (b *bench) connected(ctx context.Context, s spec, set setup) (*pair, error) {
	p, err := b.start(ctx, s, set)
	if err != nil {
		return nil, err
	}
	if err := p.connect(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *pair) client() api.Connect {
	return api.Connect{
		Addr: p.srv.Ready.WS, CertPEM: p.srv.Ready.CertPEM, Clients: p.clients, Targets: p.targets,
		Stalled: p.stalled, Size: p.size, Dialect: p.spec.dialect, Subprotocol: p.spec.subprotocol,
		Deflate: p.deflate, Sealed: p.sealedFor(), Subscribe: p.subscribe, Presence: p.presence,
	}
}

// sealedFor returns the setting for the clients. The floors always use the hub's
// keys.
func (p *pair) sealedFor() string {
	if p.sealed != "" && p.spec.floor {
		return api.SealHub
	}
	return p.sealed
}

func (p *pair) connect(ctx context.Context) error {
	var n int
	if err := p.gen.Call(ctx, "/connect", p.client(), &n); err != nil {
		return err
	}
	return p.await(ctx, p.clients)
}

// await waits until the server has n members, for 10 seconds or more.
func (p *pair) await(ctx context.Context, n int) error {
	var got int
	for range 2000 {
		if err := p.srv.Call(ctx, "/members", struct{}{}, &got); err != nil {
			return err
		}
		if got == n {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	return fmt.Errorf("the server has %d members, want %d", got, n)
}

// scenario returns sc with the fields that follow from the setup. Without Targets it
// publishes to all.
func (p *pair) scenario(sc api.Scenario) api.Scenario {
	sc.Targets, sc.Size, sc.Sync = cmp.Or(sc.Targets, p.targets), p.size, p.gen.Ready.Sync
	sc.PerPublish = (p.clients - p.stalled) / p.targets
	sc.Stall = cmp.Or(sc.Stall, time.Second)
	return sc
}

// warm delivers a few messages before the measurement.
func (p *pair) warm(ctx context.Context) error {
	n := 5
	if p.targets > 1 {
		n = 2 * p.targets
	}
	var out api.Outcome
	sc := p.scenario(api.Scenario{Burst: min(n, 100), Repeat: max(n/100, 1), MinWall: 5 * time.Second})
	if err := p.srv.Call(ctx, "/run", sc, &out); err != nil {
		return err
	}
	if out.Received != out.Expected {
		var st api.Stats
		if err := p.gen.Call(ctx, "/stats", struct{}{}, &st); err != nil {
			return err
		}
		return fmt.Errorf("warming up: %d of %d messages arrived, %d undecodable; first error: %q", out.Received, out.Expected, st.Bad, st.Error)
	}
	return nil
}

// The metrics of a sample, with their names in the JSON file.
const (
	mCPU          = "server_cpu_us"        // per delivery, or per cycle in churn
	mPerSec       = "per_second"           // deliveries, or cycles in churn
	mP50          = "p50_us"               // latency
	mP99          = "p99_us"               //
	mMax          = "max_us"               //
	mHandlerP50   = "handler_p50_us"       // latency of the HTTP handler
	mHandlerP90   = "handler_p90_us"       //
	mHandlerP99   = "handler_p99_us"       //
	mRequests     = "handler_requests"     //
	mLost         = "lost"                 // deliveries
	mDisorder     = "out_of_order"         // deliveries
	mDisconnected = "disconnected"         // clients
	mAllocs       = "allocs"               // of the server, per delivery
	mBytes        = "alloc_bytes"          // of the server, per delivery
	mGenCPU       = "loadgen_cpu_us"       // per delivery
	mGenBusy      = "loadgen_cores"        // processors kept busy
	mOthers       = "other_cores"          // by everything else on the machine
	mRate         = "messages_per_second"  //
	mIdle         = "bytes_per_connection" // heap and stacks
	mIdleRSS      = "rss_per_connection"   //
	mRoutines     = "goroutines_per_conn"  //
	mMemory       = "server_memory_bytes"  // heap and stacks after a collection, growth over the run
	mEvicted      = "stalled_disconnected" // clients that never read and that the server disconnected
	mNotices      = "notices"              // messages about members, to each client
	mNoticeRate   = "notices_per_second"   // the same, to the client that got most
	mChanges      = "changes"              // joins and leaves, told to each client
	mUnknown      = "members_unknown"      // to a client, in the end
	mIncomplete   = "resumes_incomplete"   // clients that were not promised all messages, or got no reply
	mFirstCPU     = "publisher_cpu_us"     // per delivery, of the node that publishes
	mEngineCPU    = "engine_cpu_us"        // per delivery
	mCommands     = "engine_commands"      // per delivery
	mEngineIn     = "engine_bytes_in"      // per delivery
	mEngineOut    = "engine_bytes_out"     // per delivery
	mSkipped      = "skipped"              // messages that were missing when a later one arrived
	mGaps         = "gaps"                 // messages that announced a gap
	mHeal         = "heal_seconds"         // from the end of an outage to the last late message
	mClients      = "clients"              // that a node had when it drained
	mLeft         = "clients_left"         // of them, by themselves
	mClosed       = "clients_closed"       // of them, by the hub
	mTook         = "drain_seconds"        //
	mPeak         = "peak_ratio"           // most reconnects within a second, divided by those of an even spread
	mStall        = "longest_stall_ms"     // of the load generator: a timer was late by that
	mRepeated     = "repeated"             // deliveries
	mErrors       = "publish_errors"       //
	mBad          = "undecodable"          // messages
	mCount        = "deliveries"           //
	mWall         = "seconds"              //
)

type sample map[string]float64

// result is a sample of one variant of a row. note is the load generator's first
// error, if any.
type result struct {
	variant string
	sample  sample
	note    string
}

func (r result) brief() string {
	var s strings.Builder
	for _, k := range []string{mCPU, mRate, mPerSec, mP99, mHandlerP50, mHandlerP90, mHandlerP99, mIdle, mAllocs, mLost, mDisconnected, mDisorder, mGenBusy, mOthers} {
		if v, ok := r.sample[k]; ok && (v != 0 || k == mLost) {
			fmt.Fprintf(&s, "%s=%.4g ", k, v)
		}
	}
	return s.String()
}

// window is the usage of the machine and of both processes when a measurement
// began.
type window struct {
	at      time.Time
	machine time.Duration
	gen     api.Usage
	srv     api.Usage
}

func (p *pair) open(ctx context.Context) (w window, err error) {
	if err = p.srv.Call(ctx, "/usage", false, &w.srv); err != nil {
		return w, err
	}
	err = p.gen.Call(ctx, "/usage", struct{}{}, &w.gen)
	w.at, w.machine = time.Now(), usage.Machine()
	if err == nil && p.profiles != "" {
		p.profile++
		name := fmt.Sprintf("%s-%d-%d.pprof", p.spec.name, time.Now().Unix(), p.profile)
		err = p.srv.Call(ctx, "/profile", filepath.Join(p.profiles, name), &struct{}{})
	}
	return w, err
}

// close returns the usage since w was opened, without the server's metrics:
// sample.server adds them, from the measurements closest to the work.
func (p *pair) close(ctx context.Context, w window, deliveries uint64) (sample, api.Usage, error) {
	machine, wall := usage.Machine()-w.machine, time.Since(w.at)
	if p.profiles != "" {
		if err := p.srv.Call(ctx, "/profile", "", &struct{}{}); err != nil {
			return nil, api.Usage{}, err
		}
	}
	var st api.Stats
	if err := p.gen.Call(ctx, "/stats", struct{}{}, &st); err != nil {
		return nil, api.Usage{}, err
	}
	var srv api.Usage
	if err := p.srv.Call(ctx, "/usage", false, &srv); err != nil {
		return nil, srv, err
	}
	p.note = st.Error
	n := float64(max(deliveries, 1))
	gen := st.Usage.CPU() - w.gen.CPU()
	others := machine - time.Duration(gen) - time.Duration(srv.CPU()-w.srv.CPU())
	return sample{
		mGenCPU:       float64(gen) / 1e3 / n,
		mGenBusy:      float64(gen) / float64(wall),
		mOthers:       max(float64(others)/float64(wall), 0),
		mDisconnected: float64(st.Disconnected),
		mDisorder:     float64(st.Disorder),
		mBad:          float64(st.Bad),
		mP50:          float64(st.P50) / 1e3,
		mP99:          float64(st.P99) / 1e3,
		mMax:          float64(st.Max) / 1e3,
	}, srv, nil
}

// publish runs one scenario and returns its sample.
func (p *pair) publish(ctx context.Context, sc api.Scenario) (sample, api.Outcome, error) {
	var out api.Outcome
	w, err := p.open(ctx)
	if err != nil {
		return nil, out, err
	}
	if err := p.srv.Call(ctx, "/run", p.scenario(sc), &out); err != nil {
		return nil, out, err
	}
	s, _, err := p.close(ctx, w, out.Received)
	if err != nil {
		return nil, out, err
	}
	if !sc.Latency {
		delete(s, mP50)
		delete(s, mP99)
		delete(s, mMax)
	}
	s.server(out.Before, out.After, out.Received, out.Wall)
	s[mLost] = float64(out.Expected) - float64(out.Received)
	s[mErrors] = float64(out.Errors)
	return s, out, nil
}

// server adds the metrics of the server process between two measurements.
func (s sample) server(before, after api.Usage, deliveries uint64, wall time.Duration) {
	n := float64(max(deliveries, 1))
	s[mCPU] = float64(after.CPU()-before.CPU()) / 1e3 / n
	s[mAllocs] = float64(after.Mallocs-before.Mallocs) / n
	s[mBytes] = float64(after.TotalAlloc-before.TotalAlloc) / n
	s[mPerSec] = float64(deliveries) / wall.Seconds()
	s[mCount] = float64(deliveries)
	s[mWall] = wall.Seconds()
}

// echo makes clients send and returns the sample of the deliveries.
func (p *pair) echo(ctx context.Context, rate float64, d time.Duration) (sample, error) {
	w, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	per := p.clients / p.targets
	var res api.EchoResult
	req := api.Echo{Rate: rate, Duration: d, PerSend: per, Stall: time.Second}
	if err := p.gen.Call(ctx, "/echo", req, &res); err != nil {
		return nil, err
	}
	s, srv, err := p.close(ctx, w, res.Received)
	if err != nil {
		return nil, err
	}
	s.server(w.srv, srv, res.Received, res.Wall)
	s[mLost] = float64(res.Sent)*float64(per) - float64(res.Received)
	return s, nil
}
