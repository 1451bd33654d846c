package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/child"
)

// spec describes a system to the driver.
type spec struct {
	name        string
	dialect     string
	subprotocol string
	floor       bool    // the work done without a library
	start       float64 // messages/s at which highestRate begins its search
}

const (
	ours       = "ours"
	ordinary   = "ours-ordinary"
	awake      = "ours-awake"
	oursNATS   = "ours-nats"
	bare       = "bare"
	joined     = "joined"
	gorilla    = "gorilla"
	melody     = "melody"
	gws        = "gws"
	centrifuge = "centrifuge"
	tuned      = "centrifuge-tuned"
)

var specs = []spec{
	{name: ours, dialect: api.DialectEnvelope, subprotocol: "json", start: 4000},
	{name: ordinary, dialect: api.DialectEnvelope, subprotocol: "json"},
	{name: awake, dialect: api.DialectEnvelope, subprotocol: "json"},
	{name: oursNATS, dialect: api.DialectEnvelope, subprotocol: "json"},
	{name: bare, dialect: api.DialectRaw, floor: true, start: 128},
	{name: joined, dialect: api.DialectRaw, floor: true},
	{name: gorilla, dialect: api.DialectRaw, start: 128},
	{name: melody, dialect: api.DialectRaw, start: 128},
	{name: gws, dialect: api.DialectRaw, start: 256},
	{name: centrifuge, dialect: api.DialectCentrifuge, start: 512},
	{name: tuned, dialect: api.DialectCentrifuge, start: 512},
}

var (
	peers = []string{gorilla, melody, gws, centrifuge, tuned}
	all   = append([]string{ours, bare, joined}, peers...)
	// withoutJoined is for rows in which messages arrive one by one: joined would
	// hold them back until it has a hundred.
	withoutJoined = append([]string{ours, bare}, peers...)
)

// goal is a limit for a metric of the library: factor times the reference in the
// same run, or factor itself without a reference.
type goal struct {
	variant string
	metric  string
	ref     string // a system, best, or empty
	refRow  string // the row of the reference, if it is another row
	refVar  string // the variant of the reference, if it is another variant
	factor  float64
	higher  bool // the limit is a minimum, not a maximum
}

// best as a reference is the best of the peers.
const best = "best peer"

// row is one kind of work that is measured, in one or several variants.
type row struct {
	name    string
	title   string
	systems []string
	columns []column
	goals   []goal
	run     func(context.Context, *bench, spec) ([]result, error)
}

func rowNames() (n []string) {
	for _, r := range rows {
		n = append(n, r.name)
	}
	return n
}

func systemNames() (n []string) {
	for _, s := range specs {
		n = append(n, s.name)
	}
	return n
}

var rows []row

func init() { // an initializer of rows would refer to itself through the functions
	rows = []row{
		{
			name: "burst1000", title: "1,000 messages at once to 1,000 clients of one channel, 128 bytes",
			systems: all, columns: burstColumns,
			goals: []goal{{metric: mCPU, ref: tuned, factor: 1.0 / 12}, {metric: mLost, factor: 0}, {metric: mDisconnected, factor: 0}},
			run:   burst(1000, setup{}),
		},
		{
			name: "burst200", title: "200 messages at once to 1,000 clients of one channel, 128 bytes",
			systems: all, columns: burstColumns,
			goals: []goal{{metric: mCPU, ref: centrifuge, factor: 1.0 / 10}},
			run:   burst(200, setup{}),
		},
		{
			name: "rate", title: "highest loss-free rate, messages/s to 1,000 clients, 128 bytes",
			systems: withoutJoined, columns: rateColumns,
			goals: []goal{{metric: mRate, ref: centrifuge, factor: 4, higher: true}},
			run:   highestRate,
		},
		{
			name: "paced50", title: "50 messages/s to 1,000 clients, 128 bytes",
			systems: withoutJoined, columns: pacedColumns,
			goals: []goal{{metric: mCPU, ref: bare, factor: 1.1}, {metric: mP99, ref: bare, factor: 1.2}},
			run:   paced(50, setup{}),
		},
		{
			name: "deflate1k", title: "200 messages at once to 1,000 clients, 1 KiB, permessage-deflate level 1",
			systems: all, columns: burstColumns,
			goals: []goal{{metric: mCPU, ref: best, factor: 1.0 / 6}},
			run:   burst(200, setup{size: 1024, deflate: true}),
		},
		{
			name: "rooms", title: "1,000 rooms of 2, 128 bytes, messages to random rooms",
			systems: withoutJoined, columns: pacedColumns,
			goals: []goal{{variant: "unpaced", metric: mCPU, ref: best, factor: 1.0 / 4}},
			run:   rooms,
		},
		{
			name: "echo", title: "a client publishes to its room of two: one message in, two out, 128 bytes",
			systems: withoutJoined, columns: pacedColumns,
			goals: []goal{{metric: mCPU, ref: bare, factor: 1.1}, {metric: mAllocs, factor: 3}},
			run:   echo,
		},
		{
			name: "echo-rates", title: "like echo, at several rates of messages in; the variant is that rate",
			systems: []string{ours, ordinary, bare}, columns: pacedColumns,
			goals: echoGoals(),
			run:   echoAtRates,
		},
		{
			name: "handler", title: "latency of an HTTP handler in the server's process, beside 20 broadcasts/s to 2,000 clients, or beside echo at 3,000/s",
			systems: []string{ours, ordinary, bare}, columns: handlerColumns,
			goals: []goal{
				{variant: "broadcasts", metric: mHandlerP90, ref: ordinary, factor: 1.05},
				{variant: "echo", metric: mHandlerP90, ref: ordinary, factor: 1.05},
			},
			run: handler,
		},
		{
			name: "sealed-hub", title: "200 messages at once to 1,000 clients, 128 bytes, signed and encrypted with the hub's keys",
			systems: []string{ours, joined}, columns: burstColumns,
			goals: []goal{{metric: mCPU, ref: ours, refRow: "burst200", factor: 2}},
			run:   burst(200, setup{sealed: api.SealHub}),
		},
		{
			name: "sealed-client", title: "the same, with an AES key for each client; \"joined\" uses the hub's keys",
			systems: []string{ours, joined}, columns: burstColumns,
			goals: []goal{{metric: mCPU, ref: ours, refRow: "burst200", factor: 6}},
			run:   burst(200, setup{sealed: api.SealClient}),
		},
		{
			name: "churn", title: "cycles of connect, subscribe and close",
			systems: withoutJoined, columns: churnColumns,
			goals: []goal{{metric: mCPU, ref: gws, factor: 1.1}, {metric: mErrors, factor: 0}},
			run:   churnRow,
		},
		{
			name: "idle", title: "memory per idle connection, ten seconds after all have connected; the variant is their number",
			systems: withoutJoined, columns: idleColumns,
			goals: idleGoals(),
			run:   idle,
		},
		{
			name: "wake", title: "1,000 of 10,000 silent clients send at once, 128 bytes; each gets its message back",
			systems: []string{ours, awake, bare, gws}, columns: pacedColumns,
			goals: []goal{{metric: mP99, ref: awake, factor: 1.5}, {metric: mLost, factor: 0}},
			run:   wake,
		},
		{
			name: "rare", title: "each of 10,000 clients sends a message of 128 bytes every 10 s and gets it back",
			systems: []string{ours, awake, bare, gws}, columns: pacedColumns,
			goals: []goal{{metric: mCPU, ref: awake, factor: 1.15}, {metric: mLost, factor: 0}},
			run:   rare,
		},
		{
			name: "history", title: "messages of 128 bytes to a channel of 1,000 clients with history, and to another without, in turn: 1,000 at once, or 50/s; and 1,000 at once to channels of 10",
			systems: []string{ours, centrifuge, tuned}, columns: burstColumns,
			goals: []goal{
				{variant: "burst" + kept, metric: mCPU, ref: ours, refVar: "burst", factor: 1.15},
				{variant: "50/s" + kept, metric: mCPU, ref: ours, refVar: "50/s", factor: 1.15},
			},
			run: history,
		},
		{
			name: "resume", title: "10,000 clients of one channel come back at once, and each has missed 100 messages of 128 bytes",
			systems: []string{ours, bare, centrifuge, tuned}, columns: resumeColumns,
			goals: []goal{
				{variant: replay, metric: mCPU, factor: 0.15},
				{variant: replay, metric: mCPU, ref: centrifuge, factor: 1.0 / 10},
				{variant: replay, metric: mLost, factor: 0}, {variant: replay, metric: mDisorder, factor: 0},
				{variant: replay, metric: mIncomplete, factor: 0},
			},
			run: resume,
		},
		{
			name: "presence", title: "all members of a channel lose their connections and come back at once; the variant is their number",
			systems: []string{ours, centrifuge, tuned}, columns: presenceColumns,
			goals: []goal{
				{variant: "1,000", metric: mNoticeRate, factor: 5}, {variant: "1,000", metric: mUnknown, factor: 0},
				{variant: "10,000", metric: mNoticeRate, factor: 5}, {variant: "10,000", metric: mUnknown, factor: 0},
			},
			run: presence,
		},
		{
			name: "tls-burst", title: "TLS: 200 messages at once to 1,000 clients, 128 bytes",
			systems: []string{ours, gorilla, gws, melody, centrifuge}, columns: burstColumns,
			run: burst(200, setup{tls: true}),
		},
		{
			name: "tls-paced", title: "TLS: 50 messages/s to 1,000 clients, 128 bytes",
			systems: []string{ours, gorilla, gws, melody, centrifuge}, columns: pacedColumns,
			run: paced(50, setup{tls: true}),
		},
		{
			name: "members", title: "200 messages at once to one channel, 128 bytes; the variant is the number of members",
			systems: all, columns: burstColumns,
			run: members,
		},
		{
			name: "slowreader", title: "60 messages/s of 8 KiB to 1,000 clients; the variant is the number of clients that never read",
			systems: append([]string{ours}, peers...), columns: slowColumns,
			run: slowReader,
		},
		{
			name: "hostile", title: "echo in 10 rooms of 2, 200 messages/s; the variant is the kind of hostile clients beside them",
			systems: []string{ours}, columns: pacedColumns,
			run: hostile,
		},
		{
			name: "cluster", title: "two nodes with one engine, 256 rooms with a member each, 128 bytes, from 256 goroutines on the other node",
			systems: clusterSystems, columns: clusterColumns, goals: clusterGoals(0.7, true), run: cluster(0),
		},
		{
			name: "cluster-history", title: "the same, with histories of 1,000 messages at the engine",
			systems: clusterSystems, columns: clusterColumns, goals: clusterGoals(0.5, false), run: cluster(keptMessages),
		},
		{
			name: "cluster-distance", title: "the row cluster at 50,000 messages/s, with 10 ms from each node to the engine and 10 ms back",
			systems: clusterSystems, columns: clusterColumns,
			goals: []goal{{metric: mPerSec, factor: 48000, higher: true}, {metric: mLost, factor: 0}},
			run:   clusterDistance,
		},
		{
			name: "cluster-heal", title: "1,000 messages/s to a topic with history and its 10 members on the other node, whose link to the engine breaks for 5 s",
			systems: []string{ours, oursNATS}, columns: healColumns,
			goals: []goal{
				{variant: "refused", metric: mLost, factor: 0}, {variant: "refused", metric: mGaps, factor: 0}, {variant: "refused", metric: mDisorder, factor: 0},
				{variant: "silent", metric: mLost, factor: 0}, {variant: "silent", metric: mGaps, factor: 0}, {variant: "silent", metric: mDisorder, factor: 0},
			},
			run: clusterHeal,
		},
		{
			name: "drain", title: "two nodes with 2,000 clients drain in 10 s and restart, one after the other; 5 messages/s to all clients, with history",
			systems: []string{ours, oursNATS}, columns: drainColumns, goals: drainGoals(), run: drain,
		},
	}
}

// pick returns full, or quick in a quick run.
func pick[T any](b *bench, full, quick T) T {
	if b.quick {
		return quick
	}
	return full
}

func one(r result, err error) ([]result, error) {
	if err != nil {
		return nil, err
	}
	return []result{r}, nil
}

func burst(n int, set setup) func(context.Context, *bench, spec) ([]result, error) {
	return func(ctx context.Context, b *bench, s spec) ([]result, error) {
		set := set
		set.clients = b.clients
		return one(b.burst(ctx, s, set, n))
	}
}

func (b *bench) burst(ctx context.Context, s spec, set setup, n int) (res result, err error) {
	p, err := b.connected(ctx, s, set)
	if err != nil {
		return res, err
	}
	defer p.stop()
	if err := p.warm(ctx); err != nil {
		return res, err
	}
	// As many bursts as fit into MinWall, one after the other.
	sc := api.Scenario{Burst: n, Repeat: 1 << 14, MinWall: pick(b, 2*time.Second, 300*time.Millisecond)}
	res.sample, _, err = p.publish(ctx, sc)
	res.note = p.note
	return res, err
}

func paced(rate float64, set setup) func(context.Context, *bench, spec) ([]result, error) {
	return func(ctx context.Context, b *bench, s spec) ([]result, error) {
		set := set
		set.clients = b.clients
		return one(b.paced(ctx, s, set, rate, pick(b, 6*time.Second, time.Second)))
	}
}

func (b *bench) paced(ctx context.Context, s spec, set setup, rate float64, d time.Duration) (res result, err error) {
	p, err := b.connected(ctx, s, set)
	if err != nil {
		return res, err
	}
	defer p.stop()
	if err := p.warm(ctx); err != nil {
		return res, err
	}
	return p.paced(ctx, rate, d)
}

func (p *pair) paced(ctx context.Context, rate float64, d time.Duration) (res result, err error) {
	m, out, err := p.publish(ctx, api.Scenario{Rate: rate, Duration: d, MaxLag: 2 * time.Second, Latency: true})
	if err == nil && out.Late {
		err = fmt.Errorf("the publisher fell more than 2 s behind its rate of %g messages/s", rate)
	}
	return result{sample: m, note: p.note}, err
}

// highestRate searches for the highest rate at which all messages arrive in time.
// It first raises or lowers the rate by a factor, and then bisects until the limit
// is known to 5 %. A rate fails if it fails twice. Every probe starts a new server,
// because after a loss clients may be disconnected.
func highestRate(ctx context.Context, b *bench, s spec) ([]result, error) {
	if b.rates == nil {
		b.rates = map[string]float64{}
	}
	rate := s.start
	if r, ok := b.rates[s.name]; ok {
		rate = r
	}
	rate *= 1000 / float64(b.clients)
	var low, high float64 // highest rate that passed, lowest that failed; 0 is unknown
	var good sample
	width, step := pick(b, 1.05, 1.3), pick(b, 1.25, 2.0)
	if _, ok := b.rates[s.name]; !ok {
		step = 2
	}
	for probe := 0; probe < 24 && (low == 0 || high == 0 || high/low > width); probe++ {
		m, ok, err := b.probe(ctx, s, rate)
		if err == nil && !ok { // the machine may have been busy
			m, ok, err = b.probe(ctx, s, rate)
		}
		if err != nil {
			return nil, err
		}
		if ok {
			low, good = rate, m
		} else {
			high = rate
		}
		switch {
		case high == 0:
			rate *= step
		case low == 0:
			rate /= step
		default:
			rate = math.Sqrt(low * high)
		}
		if rate < 1 {
			return nil, errors.New("the system does not sustain one message a second")
		}
	}
	if good == nil {
		return nil, errors.New("no sustained rate found in 24 probes")
	}
	good[mRate] = low
	b.rates[s.name] = low * float64(b.clients) / 1000
	return []result{{sample: good}}, nil
}

// probe reports whether a system sustains a rate: no message is lost, no client is
// disconnected, and the last message arrives no later than a tenth of the duration
// after the end.
func (b *bench) probe(ctx context.Context, s spec, rate float64) (sample, bool, error) {
	p, err := b.connected(ctx, s, setup{clients: b.clients})
	if err != nil {
		return nil, false, err
	}
	defer p.stop()
	if err := p.warm(ctx); err != nil {
		return nil, false, err
	}
	d := pick(b, 2*time.Second, 700*time.Millisecond)
	m, out, err := p.publish(ctx, api.Scenario{Rate: rate, Duration: d, MaxLag: d / 10, Stall: 300 * time.Millisecond, Latency: true})
	if err != nil {
		return nil, false, err
	}
	return m, !out.Late && m[mLost] == 0 && m[mDisconnected] == 0 && out.Wall <= d+d/10, nil
}

func rooms(ctx context.Context, b *bench, s spec) (all []result, err error) {
	set := setup{clients: 2 * b.clients, targets: b.clients}
	res, err := b.paced(ctx, s, set, 5000, pick(b, 3*time.Second, time.Second))
	if err != nil {
		return nil, err
	}
	res.variant = "5000/s"
	all = append(all, res)
	p, err := b.connected(ctx, s, set)
	if err != nil {
		return all, err
	}
	defer p.stop()
	if err := p.warm(ctx); err != nil {
		return all, err
	}
	// 20 messages for each room on average, fewer than the shortest queue holds.
	sc := api.Scenario{Burst: 20 * b.clients, Repeat: 1 << 10, MinWall: pick(b, 2*time.Second, 300*time.Millisecond)}
	m, _, err := p.publish(ctx, sc)
	if err != nil {
		return all, err
	}
	return append(all, result{"unpaced", m, p.note}), nil
}

func echo(ctx context.Context, b *bench, s spec) ([]result, error) {
	p, err := b.connected(ctx, s, setup{clients: b.clients, targets: b.clients / 2})
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if _, err := p.echo(ctx, 5000, 200*time.Millisecond); err != nil { // warms up
		return nil, err
	}
	m, err := p.echo(ctx, 5000, pick(b, 3*time.Second, time.Second))
	return one(result{sample: m, note: p.note}, err)
}

// echoRates are the rates of the row echo-rates, in messages in per second.
var echoRates = []int{20, 100, 300, 500, 1000, 3000, 5000}

func echoVariant(rate int) string { return strconv.Itoa(rate) + "/s" }

func echoGoals() (goals []goal) {
	for _, rate := range echoRates {
		goals = append(goals, goal{variant: echoVariant(rate), metric: mCPU, ref: ordinary, factor: 1.05})
	}
	return goals
}

func echoAtRates(ctx context.Context, b *bench, s spec) (all []result, err error) {
	p, err := b.connected(ctx, s, setup{clients: b.clients, targets: b.clients / 2})
	if err != nil {
		return nil, err
	}
	defer p.stop()
	for _, rate := range echoRates {
		if _, err := p.echo(ctx, float64(rate), 200*time.Millisecond); err != nil { // warms up
			return all, err
		}
		d := pick(b, 3*time.Second, time.Second)
		if rate < 500 {
			d *= 2
		}
		m, err := p.echo(ctx, float64(rate), d)
		if err != nil {
			return all, err
		}
		all = append(all, result{echoVariant(rate), m, p.note})
	}
	return all, nil
}

// handler measures an HTTP handler beside the hub's work. A second load generator
// makes the requests, because the first is busy with the deliveries.
func handler(ctx context.Context, b *bench, s spec) (all []result, err error) {
	d := pick(b, 6*time.Second, time.Second)
	res, err := b.handler(ctx, s, setup{clients: 2 * b.clients}, d, func(p *pair) (sample, error) {
		res, err := p.paced(ctx, 20, d)
		return res.sample, err
	})
	if err != nil {
		return nil, err
	}
	res.variant = "broadcasts"
	all = append(all, res)
	res, err = b.handler(ctx, s, setup{clients: b.clients, targets: b.clients / 2}, d, func(p *pair) (sample, error) {
		return p.echo(ctx, 3000, d)
	})
	res.variant = "echo"
	if err != nil {
		return all, err
	}
	return append(all, res), nil
}

// handler runs work and, at the same time for d, requests to the handler.
func (b *bench) handler(ctx context.Context, s spec, set setup, d time.Duration, work func(*pair) (sample, error)) (res result, err error) {
	p, err := b.connected(ctx, s, set)
	if err != nil {
		return res, err
	}
	defer p.stop()
	if p.targets == 1 {
		if err := p.warm(ctx); err != nil {
			return res, err
		}
	}
	prober, err := child.Start(ctx, b.loadgen)
	if err != nil {
		return res, err
	}
	defer prober.Stop()
	req := api.Probe{URL: "http://" + p.srv.Ready.WS + "/hello", Interval: 3 * time.Millisecond, Duration: d}
	var got api.ProbeResult
	probed := make(chan error, 1) // the goroutine sends once
	go func() { probed <- prober.Call(ctx, "/probe", req, &got) }()
	m, err := work(p)
	if probeErr := <-probed; err == nil {
		err = probeErr
	}
	if err != nil {
		return res, err
	}
	m[mHandlerP50] = float64(got.P50) / 1e3
	m[mHandlerP90] = float64(got.P90) / 1e3
	m[mHandlerP99] = float64(got.P99) / 1e3
	m[mRequests] = float64(got.Requests)
	return result{sample: m, note: p.note}, nil
}

func churnRow(ctx context.Context, b *bench, s spec) ([]result, error) {
	p, err := b.start(ctx, s, setup{clients: 1})
	if err != nil {
		return nil, err
	}
	defer p.stop()
	var res api.ChurnResult
	req := api.Churn{Connect: p.client(), Cycles: 200, Concurrency: 32, Limit: time.Minute}
	if err := p.gen.Call(ctx, "/churn", req, &res); err != nil { // warms up
		return nil, err
	}
	w, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	req.Cycles = pick(b, 8000, 1000)
	if err := p.gen.Call(ctx, "/churn", req, &res); err != nil {
		return nil, err
	}
	if err := p.await(ctx, 0); err != nil { // members that stay are a leak
		return nil, err
	}
	m, srv, err := p.close(ctx, w, uint64(res.Cycles))
	if err != nil {
		return nil, err
	}
	m.server(w.srv, srv, uint64(res.Cycles), res.Wall)
	m[mErrors] = float64(res.Errors)
	if res.Cycles == 0 {
		return nil, errors.New("no cycle succeeded: " + res.First)
	}
	return []result{{sample: m, note: res.First}}, nil
}

// idleCounts are the numbers of connections in the row idle.
func idleCounts(b *bench) []int { return []int{10 * b.clients, 100 * b.clients} }

func idleVariant(n int) string {
	if n%1000 != 0 {
		return strconv.Itoa(n)
	}
	return strconv.Itoa(n/1000) + ",000"
}

func idleGoals() (goals []goal) {
	for _, n := range []int{10_000, 100_000} {
		goals = append(goals,
			goal{variant: idleVariant(n), metric: mIdle, factor: 3000},
			goal{variant: idleVariant(n), metric: mIdle, ref: gws, factor: 1 / 2.5},
			goal{variant: idleVariant(n), metric: mRoutines, factor: 0.001})
	}
	return goals
}

func idle(ctx context.Context, b *bench, s spec) (all []result, err error) {
	for _, n := range idleCounts(b) {
		r := result{variant: idleVariant(n)}
		if limit := openFiles(); limit < uint64(n)+100 {
			r.note = fmt.Sprintf("%d connections need as many open files: the limit of a process is %d here (ulimit -Hn)", n, limit)
		} else if r.sample, err = idleWith(ctx, b, s, n); err != nil {
			return all, err
		}
		all = append(all, r)
	}
	return all, nil
}

// hibernation is the time after which silent connections hibernate, with some to spare.
func hibernation(b *bench) time.Duration { return pick(b, 10*time.Second, 7*time.Second) }

// pause waits for d.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func idleWith(ctx context.Context, b *bench, s spec, n int) (sample, error) {
	p, err := b.start(ctx, s, setup{clients: n})
	if err != nil {
		return nil, err
	}
	defer p.stop()
	var before, after api.Usage
	if err := p.srv.Call(ctx, "/usage", true, &before); err != nil {
		return nil, err
	}
	if err := p.connect(ctx); err != nil {
		return nil, err
	}
	if err := pause(ctx, hibernation(b)); err != nil {
		return nil, err
	}
	if err := p.srv.Call(ctx, "/usage", true, &after); err != nil {
		return nil, err
	}
	per := func(a, b float64) float64 { return (a - b) / float64(n) }
	return sample{
		mIdle:     per(float64(after.InUse), float64(before.InUse)),
		mIdleRSS:  per(float64(after.RSS), float64(before.RSS)),
		mRoutines: per(float64(after.Goroutines), float64(before.Goroutines)),
	}, nil
}

// alone connects clients that are each the only member of their room.
func (b *bench) alone(ctx context.Context, s spec, n int) (*pair, error) {
	return b.connected(ctx, s, setup{clients: n, targets: n})
}

// wake makes a tenth of the clients send as fast as the load generator can.
func wake(ctx context.Context, b *bench, s spec) ([]result, error) {
	p, err := b.alone(ctx, s, 10*b.clients)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	send := func() (sample, error) {
		return p.echo(ctx, 1e6, time.Duration(b.clients)*time.Microsecond)
	}
	if _, err := send(); err != nil { // warms up
		return nil, err
	}
	if err := pause(ctx, hibernation(b)); err != nil {
		return nil, err
	}
	m, err := send()
	return one(result{sample: m, note: p.note}, err)
}

func rare(ctx context.Context, b *bench, s spec) ([]result, error) {
	p, err := b.alone(ctx, s, 10*b.clients)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if err := pause(ctx, hibernation(b)); err != nil {
		return nil, err
	}
	rate := float64(b.clients)                                                         // each of the 10 * b.clients every 10 seconds
	if _, err := p.echo(ctx, rate, pick(b, 10*time.Second, time.Second)); err != nil { // warms up
		return nil, err
	}
	m, err := p.echo(ctx, rate, pick(b, 20*time.Second, 2*time.Second))
	return one(result{sample: m, note: p.note}, err)
}

func members(ctx context.Context, b *bench, s spec) (all []result, err error) {
	for _, n := range []int{10, 100, 1000, 10000} {
		res, err := b.burst(ctx, s, setup{clients: n}, 200)
		if err != nil {
			return all, fmt.Errorf("%d members: %w", n, err)
		}
		res.variant = strconv.Itoa(n)
		all = append(all, res)
	}
	return all, nil
}

func slowReader(ctx context.Context, b *bench, s spec) (all []result, err error) {
	for stalled, variant := range []string{"none", "one"} { // the index is the number of stalled clients
		res, err := b.slowReader(ctx, s, stalled)
		if err != nil {
			return all, fmt.Errorf("%s stalled: %w", variant, err)
		}
		res.variant = variant
		all = append(all, res)
	}
	return all, nil
}

func (b *bench) slowReader(ctx context.Context, s spec, stalled int) (res result, err error) {
	p, err := b.connected(ctx, s, setup{clients: b.clients, stalled: stalled, size: 8192})
	if err != nil {
		return res, err
	}
	defer p.stop()
	if err := p.warm(ctx); err != nil {
		return res, err
	}
	var before, after api.Usage
	if err := p.srv.Call(ctx, "/usage", true, &before); err != nil {
		return res, err
	}
	// Six megabytes for each client, more than the kernel buffers.
	if res, err = p.paced(ctx, 60, pick(b, 13*time.Second, 2*time.Second)); err != nil {
		return res, err
	}
	if err := p.srv.Call(ctx, "/usage", true, &after); err != nil {
		return res, err
	}
	res.sample[mMemory] = float64(after.InUse) - float64(before.InUse)
	res.sample[mEvicted] = float64(before.Members - after.Members)
	return res, nil
}
