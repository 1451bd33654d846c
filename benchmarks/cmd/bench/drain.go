package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/child"
)

// Figures of the row drain.
const (
	drainCheck  = 200 * time.Millisecond // time between two checks of the balancer
	drainDelay  = time.Second
	drainBucket = time.Second // reconnects are counted in buckets of this length
	drainRate   = 5           // publications per second
)

func drainGoals() (goals []goal) {
	for _, v := range []string{"node 1", "node 2"} {
		goals = append(goals, goal{variant: v, metric: mPeak, factor: 1.5}, goal{variant: v, metric: mLost, factor: 0},
			goal{variant: v, metric: mRepeated, factor: 0}, goal{variant: v, metric: mErrors, factor: 0})
	}
	return goals
}

// drain restarts the two nodes of a cluster one after the other, while a client publishes
// to a channel with history that all others have subscribed to.
func drain(ctx context.Context, b *bench, s spec) (all []result, err error) {
	dir, err := os.MkdirTemp("", "engine")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	kind := "redis"
	if s.name == oursNATS {
		kind = "nats"
	}
	engine, err := child.Start(ctx, b.engine, "-kind", kind, "-dir", dir)
	if err != nil {
		return nil, err
	}
	defer engine.Stop()
	start := func() (*child.Process, error) {
		return child.Start(ctx, b.server, "-system", s.name, "-engine", engine.Ready.WS, "-history", strconv.Itoa(10*keptMessages), "-subscribe")
	}
	var servers [2]*child.Process
	defer func() {
		for _, p := range servers {
			if p != nil {
				p.Stop()
			}
		}
	}()
	for i := range servers {
		if servers[i], err = start(); err != nil {
			return nil, err
		}
	}
	b.versions = servers[0].Ready.Versions
	addresses := func() []string { return []string{servers[0].Ready.WS, servers[1].Ready.WS} }
	gen, err := child.Start(ctx, b.loadgen)
	if err != nil {
		return nil, err
	}
	defer gen.Stop()
	roam := api.Roam{Nodes: addresses(), Clients: pick(b, 2*b.clients, b.clients/5), Rate: drainRate, Check: drainCheck}
	if err := gen.Call(ctx, "/roam", roam, &struct{}{}); err != nil {
		return nil, err
	}
	window := pick(b, 10*time.Second, 3*time.Second)
	var drained [2]api.Drained
	for i := range servers {
		if err := wait(ctx, 2*time.Second); err != nil {
			return nil, err
		}
		if err := servers[i].Call(ctx, "/drain", api.Drain{Window: window, Delay: drainDelay}, &drained[i]); err != nil {
			return nil, err
		}
		servers[i].Stop()
		if servers[i], err = start(); err != nil {
			return nil, err
		}
		if err := gen.Call(ctx, "/nodes", addresses(), &struct{}{}); err != nil {
			return nil, err
		}
		if err := wait(ctx, 2*time.Second); err != nil {
			return nil, err
		}
	}
	var seen api.Roamed
	if err := gen.Call(ctx, "/roamed", struct{}{}, &seen); err != nil {
		return nil, err
	}
	for i, d := range drained {
		all = append(all, result{
			fmt.Sprintf("node %d", i+1),
			sample{
				mClients: float64(d.Clients), mLeft: float64(d.Left), mClosed: float64(d.Closed + d.Cut), mTook: d.Took.Seconds(),
				mPeak:  float64(peak(seen.Reconnects, d.Began+int64(drainDelay))) * window.Seconds() / (drainBucket.Seconds() * float64(d.Clients)),
				mStall: seen.Stall.Seconds() * 1e3,
				mLost:  float64(seen.Missed), mRepeated: float64(seen.Repeated), mErrors: float64(len(seen.Errors)),
			},
			strings.Join(seen.Errors, "; "),
		})
	}
	return all, nil
}

// peak returns the largest number of times in a bucket. The first of 15 buckets begins at
// began.
func peak(times []int64, began int64) int {
	var buckets [15]int
	for _, t := range times {
		if at := (t - began) / int64(drainBucket); t >= began && at < int64(len(buckets)) {
			buckets[at]++
		}
	}
	return slices.Max(buckets[:])
}

// wait waits for d.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
