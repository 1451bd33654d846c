package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/payload"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/usage"
)

// seqs holds the last sequence number of each target since the start of the
// process. Only publishAll uses it, and the driver runs one scenario at a time.
var seqs [maxTargets]uint32

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
	sync, err := api.DialSync(sc.Sync)
	if err != nil {
		return out, err
	}
	defer func() { _ = sync.Close() }()
	var latency uint64
	if sc.Latency {
		latency = 1
	}
	if _, err := sync.Ask(api.SyncReset, latency, 0); err != nil {
		return out, err
	}

	p := &publisher{sys: sys, sc: sc, out: &out, rng: rand.New(rand.NewPCG(1, 2))}
	before := usage.CPU()
	usage.Memory(&before)
	start := time.Now()
	cpu := usage.CPU()
	before.At, before.User, before.System = cpu.At, cpu.User, cpu.System

	var got api.Arrived
	if sc.Rate > 0 {
		p.paced(ctx, start)
		got, err = p.await(sync)
	} else {
		got, err = p.bursts(ctx, start, sync)
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

type publisher struct {
	sys system
	sc  api.Scenario
	out *api.Outcome
	rng *rand.Rand
}

func (p *publisher) publish() {
	t := p.sc.Target
	if p.sc.Targets > 1 {
		t += p.rng.IntN(p.sc.Targets)
	}
	seqs[t]++
	b := payload.Append(make([]byte, 0, p.sc.Size), seqs[t], time.Now().UnixNano(), p.sc.Size)
	if err := p.sys.publish(t, b); err != nil {
		p.out.Errors++
	}
	p.out.Published++
	p.out.Expected += uint64(p.sc.PerPublish)
}

// await flushes, and waits until all messages have arrived or none has for the
// time Stall.
func (p *publisher) await(sync *api.Sync) (api.Arrived, error) {
	p.sys.flush()
	return sync.Ask(api.SyncWait, p.out.Expected, uint64(p.sc.Stall))
}

func (p *publisher) bursts(ctx context.Context, start time.Time, sync *api.Sync) (got api.Arrived, err error) {
	for i := range min(p.sc.Repeat, maxRepeat) {
		if i > 0 && time.Since(start) >= p.sc.MinWall || ctx.Err() != nil {
			break
		}
		for range p.sc.Burst {
			p.publish()
		}
		if got, err = p.await(sync); err != nil || got.Received != p.out.Expected || got.Disconnected > 0 {
			break
		}
	}
	return got, err
}

func (p *publisher) paced(ctx context.Context, start time.Time) {
	interval := time.Duration(float64(time.Second) / p.sc.Rate)
	due := start
	for end := start.Add(min(p.sc.Duration, maxDuration)); due.Before(end) && ctx.Err() == nil; due = due.Add(interval) {
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
