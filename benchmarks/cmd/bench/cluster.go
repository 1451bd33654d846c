package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/child"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
)

// clusterTargets is the number of rooms in the rows of clusters. Each has one member, on
// the node that does not publish, and a goroutine that publishes to it.
const clusterTargets = 256

// nodes is two servers with an engine. The first publishes, the second has the members. The
// embedded pair has the first, and the load generator.
type nodes struct {
	*pair
	second *child.Process
	engine *child.Process
	links  [2]*testnet.Link // to the engine, one for each server; nil if they are direct
	dir    string
}

// startNodes starts an engine and two servers, and connects one client for each target.
func (b *bench) startNodes(ctx context.Context, s spec, set setup, links bool) (n *nodes, err error) {
	n = &nodes{pair: &pair{setup: set.withDefaults(), spec: s, profiles: b.profiles}}
	defer func() {
		if err != nil {
			n.stop()
		}
	}()
	if n.dir, err = os.MkdirTemp("", "engine"); err != nil {
		return n, err
	}
	kind := "redis"
	if s.name == oursNATS {
		kind = "nats"
	}
	if n.engine, err = child.Start(ctx, b.engine, "-kind", kind, "-dir", n.dir); err != nil {
		return n, err
	}
	for i := range n.links {
		url := n.engine.Ready.WS
		if links {
			scheme, addr, _ := strings.Cut(url, "://")
			if n.links[i], err = testnet.NewLink(addr); err != nil {
				return n, err
			}
			url = scheme + "://" + n.links[i].Addr()
		}
		args := []string{"-system", s.name, "-engine", url, "-rooms"}
		if set.history > 0 {
			args = append(args, "-history", strconv.Itoa(set.history))
		}
		server, err := child.Start(ctx, b.server, args...)
		if err != nil {
			return n, err
		}
		n.srv, n.second = server, n.srv
	}
	b.versions = n.srv.Ready.Versions
	if n.gen, err = child.Start(ctx, b.loadgen); err != nil {
		return n, err
	}
	err = n.connect(ctx) // to the server that was started last
	n.srv, n.second = n.second, n.srv
	if err != nil {
		return n, err
	}
	// The servers subscribe at the engine.
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return n, ctx.Err()
	}
	return n, n.warm(ctx)
}

func (n *nodes) stop() {
	for _, l := range n.links {
		if l != nil {
			l.Close()
		}
	}
	for _, p := range []*child.Process{n.gen, n.srv, n.second, n.engine} {
		if p != nil {
			p.Stop()
		}
	}
	if n.dir != "" {
		_ = os.RemoveAll(n.dir)
	}
}

// done returns what the second server and the engine have done.
func (n *nodes) done(ctx context.Context) (u api.Usage, e api.Engine, err error) {
	if err = n.second.Call(ctx, "/usage", false, &u); err == nil {
		err = n.engine.Call(ctx, "/done", struct{}{}, &e)
	}
	return u, e, err
}

// publish runs one scenario. The CPU time in the sample is that of both servers.
func (n *nodes) publish(ctx context.Context, sc api.Scenario) (sample, error) {
	server, engine, err := n.done(ctx)
	if err != nil {
		return nil, err
	}
	if n.profiles != "" {
		name := fmt.Sprintf("%s-%d-%d-members.pprof", n.spec.name, time.Now().Unix(), n.profile+1)
		if err := n.second.Call(ctx, "/profile", filepath.Join(n.profiles, name), &struct{}{}); err != nil {
			return nil, err
		}
	}
	m, out, err := n.pair.publish(ctx, sc)
	if err != nil {
		return nil, err
	}
	if n.profiles != "" {
		if err := n.second.Call(ctx, "/profile", "", &struct{}{}); err != nil {
			return nil, err
		}
	}
	serverAfter, engineAfter, err := n.done(ctx)
	if err != nil {
		return nil, err
	}
	var st api.Stats
	if err := n.gen.Call(ctx, "/stats", struct{}{}, &st); err != nil {
		return nil, err
	}
	count := float64(max(out.Received, 1))
	m[mFirstCPU] = m[mCPU]
	m[mCPU] += float64(serverAfter.CPU()-server.CPU()) / 1e3 / count
	m[mAllocs] += float64(serverAfter.Mallocs-server.Mallocs) / count
	m[mEngineCPU] = float64(engineAfter.CPU-engine.CPU) / 1e3 / count
	m[mCommands] = float64(engineAfter.Commands-engine.Commands) / count
	m[mEngineIn] = float64(engineAfter.In-engine.In) / count
	m[mEngineOut] = float64(engineAfter.Out-engine.Out) / count
	m[mSkipped] = float64(st.Skipped)
	m[mGaps] = float64(st.Gaps)
	busy := (m[mCPU] - m[mFirstCPU] + m[mEngineCPU]) * count / 1e6
	m[mOthers] = max(m[mOthers]-busy/m[mWall], 0)
	return m, nil
}

var clusterSystems = []string{ours, oursNATS, centrifuge}

// clusterVariants are the rates of the row cluster.
var clusterVariants = []string{"5000/s", "20000/s", "flood"}

func clusterGoals(factor float64, engine bool) (goals []goal) {
	for _, v := range append([]string{oneRoom, largeRoom}, clusterVariants...) {
		goals = append(goals, goal{variant: v, metric: mCPU, ref: centrifuge, factor: factor}, goal{variant: v, metric: mLost, factor: 0})
		if engine {
			goals = append(goals, goal{variant: v, metric: mEngineCPU, ref: centrifuge, factor: 1})
		}
	}
	return goals
}

// cluster publishes on one node for members on another, without or with histories.
func cluster(messages int) func(context.Context, *bench, spec) ([]result, error) {
	return func(ctx context.Context, b *bench, s spec) (all []result, err error) {
		flood := api.Scenario{Burst: 20 * clusterTargets, Repeat: 1 << 14, MinWall: pick(b, 2*time.Second, 500*time.Millisecond)}
		paced := func(rate float64) api.Scenario {
			return api.Scenario{Rate: rate, Duration: pick(b, 3*time.Second, time.Second), Latency: true}
		}
		set := setup{clients: clusterTargets, targets: clusterTargets, history: messages}
		if err := b.between(ctx, s, set, clusterVariants, []api.Scenario{paced(5000), paced(20000), flood}, &all); err != nil {
			return all, err
		}
		set = setup{clients: 1, history: messages}
		if err := b.between(ctx, s, set, []string{oneRoom}, []api.Scenario{flood}, &all); err != nil {
			return all, err
		}
		flood.Burst = 1000 // more would exceed the queues of clients
		set = setup{clients: 100, history: messages}
		return all, b.between(ctx, s, set, []string{largeRoom}, []api.Scenario{flood}, &all)
	}
}

// Variants of the row cluster in which all publish to one room, with one member or 100.
const (
	oneRoom   = "flood, one room"
	largeRoom = "flood, one room of 100"
)

// between runs scenarios between two nodes, and appends their results under the variants.
func (b *bench) between(ctx context.Context, s spec, set setup, variants []string, scenarios []api.Scenario, all *[]result) error {
	n, err := b.startNodes(ctx, s, set, false)
	if err != nil {
		return err
	}
	defer n.stop()
	for i, sc := range scenarios {
		sc.Publishers = clusterTargets
		m, err := n.publish(ctx, sc)
		if err != nil {
			return err
		}
		if n.targets == 1 {
			delete(m, mDisorder) // there is no order
		}
		*all = append(*all, result{variants[i], m, n.note})
	}
	return nil
}

// distance is the time from a node to the engine, in one direction, in the row
// cluster-distance.
const distance = 10 * time.Millisecond

// clusterDistance is cluster with an engine far away. Both nodes publish and receive through
// links that delay.
func clusterDistance(ctx context.Context, b *bench, s spec) (all []result, err error) {
	n, err := b.startNodes(ctx, s, setup{clients: clusterTargets, targets: clusterTargets}, true)
	if err != nil {
		return nil, err
	}
	defer n.stop()
	for _, l := range n.links {
		l.SetDelay(distance)
	}
	m, err := n.publish(ctx, api.Scenario{Publishers: clusterTargets, Rate: 50000, Duration: pick(b, 4*time.Second, time.Second), Latency: true})
	return one(result{sample: m, note: n.note}, err)
}

// Times of the row cluster-heal.
const (
	outage      = 5 * time.Second
	beforeBreak = 2 * time.Second
	afterBreak  = 6 * time.Second
)

// clusterHeal breaks the link between the engine and the node that has the members, while the
// other node publishes to one topic with history.
func clusterHeal(ctx context.Context, b *bench, s spec) (all []result, err error) {
	for _, variant := range []string{"refused", "silent"} {
		res, err := b.heal(ctx, s, variant == "silent")
		if err != nil {
			return all, err
		}
		res.variant = variant
		all = append(all, res)
	}
	return all, nil
}

func (b *bench) heal(ctx context.Context, s spec, silent bool) (res result, err error) {
	n, err := b.startNodes(ctx, s, setup{clients: 10, history: 10000}, true)
	if err != nil {
		return res, err
	}
	defer n.stop()
	restored := make(chan time.Time, 1) // the timer below sends once
	breaking := time.AfterFunc(beforeBreak, func() {
		n.links[1].Cut(silent)
		time.Sleep(outage)
		n.links[1].Restore()
		restored <- time.Now()
	})
	m, err := n.publish(ctx, api.Scenario{Rate: 1000, Duration: beforeBreak + outage + afterBreak, Latency: true, Stall: 10 * time.Second})
	if breaking.Stop() {
		err = errors.Join(err, errors.New("the run ended before the outage"))
	}
	if err != nil {
		return res, err
	}
	var st api.Stats
	if err := n.gen.Call(ctx, "/stats", struct{}{}, &st); err != nil {
		return res, err
	}
	m[mHeal] = max(time.Unix(0, st.LastLate).Sub(<-restored).Seconds(), 0)
	return result{sample: m, note: n.note}, nil
}
