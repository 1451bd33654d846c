package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/payload"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/usage"
)

// seqs holds the last sequence number of each target since the start of the
// process. Only publishAll uses it, and the driver runs one scenario at a time.
var seqs [maxTargets]atomic.Uint32

// Upper limits of a scenario.
const (
	maxRepeat   = 1 << 16
	maxDuration = 2 * time.Minute
)

// publishAll runs a scenario and returns its counts and the resources that it used.
func publishAll(ctx context.Context, sys system, sc api.Scenario) (out api.Outcome, err error) {
	if sc.Target < 0 || sc.Targets < 1 || sc.Targets > maxTargets-sc.Target || sc.PerPublish < 0 {
		return out, errors.New("a scenario needs 1 to 16,384 targets")
	}
	arrivals, err := api.DialSync(sc.Sync)
	if err != nil {
		return out, err
	}
	defer func() { _ = arrivals.Close() }()
	var latency uint64
	if sc.Latency {
		latency = 1
	}
	if _, err := arrivals.Ask(api.SyncReset, latency, 0); err != nil {
		return out, err
	}

	p := newPublishers(sys, sc, &out)
	before := usage.CPU()
	usage.Memory(&before)
	start := time.Now()
	cpu := usage.CPU()
	before.At, before.User, before.System = cpu.At, cpu.User, cpu.System

	var got api.Arrived
	if sc.Rate > 0 {
		p.paced(ctx, start)
		got, err = p.await(sys, arrivals)
	} else {
		got, err = p.bursts(ctx, start, sys, arrivals)
	}
	if err != nil {
		return out, err
	}
	after := usage.CPU()
	usage.Memory(&after)
	after.Members = sys.members()
	out.Before, out.After, out.Received = before, after, got.Received
	out.Wall = time.Duration(max(got.Last-start.UnixNano(), 1))
	return out, nil
}

// publishers are the goroutines of a scenario. Each has targets of its own, so that the
// messages of a target have an order, or all have the only target.
type publishers struct {
	sc  api.Scenario
	out *api.Outcome
	all []*publisher
}

type publisher struct {
	sys   system
	sc    *api.Scenario
	first int         // of its targets; each other one is len(all) behind the one before it
	count int         // of its targets
	step  int         // between its targets
	out   api.Outcome // of the latest burst
	rng   *rand.Rand
}

func newPublishers(sys system, sc api.Scenario, out *api.Outcome) *publishers {
	n := max(sc.Publishers, 1)
	if sc.Targets > 1 {
		n = min(n, sc.Targets)
	}
	p := &publishers{sc: sc, out: out}
	for i := range n {
		if sc.Targets == 1 {
			p.all = append(p.all, &publisher{sys: sys, sc: &p.sc, first: sc.Target, count: 1})
			continue
		}
		p.all = append(p.all, &publisher{
			sys: sys, sc: &p.sc, first: sc.Target + i, count: (sc.Targets - i + n - 1) / n, step: n,
			rng: rand.New(rand.NewPCG(1, uint64(2+i))),
		})
	}
	return p
}

// each calls f for all publishers, at the same time, and adds their counts to out.
func (p *publishers) each(f func(i int, p *publisher)) {
	if len(p.all) == 1 {
		f(0, p.all[0])
	} else {
		var running sync.WaitGroup
		for i, one := range p.all {
			running.Go(func() { f(i, one) })
		}
		running.Wait()
	}
	for _, one := range p.all {
		p.out.Published += one.out.Published
		p.out.Expected += one.out.Expected
		p.out.Errors += one.out.Errors
		p.out.Late = p.out.Late || one.out.Late
		one.out = api.Outcome{}
	}
}

func (p *publisher) publish() {
	t := p.first
	if p.count > 1 {
		t += p.step * p.rng.IntN(p.count)
	}
	b := payload.Append(make([]byte, 0, p.sc.Size), seqs[t].Add(1), time.Now().UnixNano(), p.sc.Size)
	if err := p.sys.publish(t, b); err != nil {
		p.out.Errors++
	}
	p.out.Published++
	p.out.Expected += uint64(p.sc.PerPublish)
}

// await flushes, and waits until all messages have arrived or none has for the
// time Stall.
func (p *publishers) await(sys system, arrivals *api.Sync) (api.Arrived, error) {
	sys.flush()
	return arrivals.Ask(api.SyncWait, p.out.Expected, uint64(p.sc.Stall))
}

func (p *publishers) bursts(ctx context.Context, start time.Time, sys system, arrivals *api.Sync) (got api.Arrived, err error) {
	for i := range min(p.sc.Repeat, maxRepeat) {
		if i > 0 && time.Since(start) >= p.sc.MinWall || ctx.Err() != nil {
			break
		}
		p.each(func(i int, one *publisher) {
			for range (p.sc.Burst - i + len(p.all) - 1) / len(p.all) {
				one.publish()
			}
		})
		if got, err = p.await(sys, arrivals); err != nil || got.Received != p.out.Expected || got.Disconnected > 0 {
			break
		}
	}
	return got, err
}

func (p *publishers) paced(ctx context.Context, start time.Time) {
	interval := time.Duration(float64(time.Second) / p.sc.Rate)
	end := start.Add(min(p.sc.Duration, maxDuration))
	p.each(func(i int, one *publisher) {
		one.paced(ctx, start.Add(time.Duration(i)*interval), end, interval*time.Duration(len(p.all)))
	})
}

func (p *publisher) paced(ctx context.Context, due, end time.Time, interval time.Duration) {
	for ; due.Before(end) && ctx.Err() == nil; due = due.Add(interval) {
		wait := time.Until(due)
		if wait > 0 {
			time.Sleep(wait)
		} else if p.sc.MaxLag > 0 && -wait > p.sc.MaxLag {
			p.out.Late = true
			return
		}
		p.publish()
	}
}
