package main

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
)

// keptMessages is the number of messages that a history keeps in the rows history and
// resume.
const keptMessages = 1000

// stall is how long the rows below wait for the next message or reply.
const stall = 5 * time.Second

// kept is the suffix of the variants that publish to the channel with history.
const kept = ", history"

// history measures a channel with history and one without.
func history(ctx context.Context, b *bench, s spec) (all []result, err error) {
	bursts := api.Scenario{Burst: 1000, Repeat: 1 << 14, MinWall: pick(b, 300*time.Millisecond, 200*time.Millisecond), Stall: stall}
	if err := b.takeTurns(ctx, s, "burst", b.clients, bursts, &all); err != nil {
		return all, err
	}
	if err := b.takeTurns(ctx, s, "burst to 10", 10, bursts, &all); err != nil {
		return all, err
	}
	single := api.Scenario{Rate: 50, Duration: pick(b, 700*time.Millisecond, 500*time.Millisecond), MaxLag: 2 * time.Second, Stall: stall}
	return all, b.takeTurns(ctx, s, "50/s", b.clients, single, &all)
}

// takeTurns publishes to a channel with history, target 0, and to one without, target 1,
// in the same processes. The turns are short, so that a busy machine slows down both.
func (b *bench) takeTurns(ctx context.Context, s spec, variant string, clients int, sc api.Scenario, all *[]result) error {
	p, err := b.connected(ctx, s, setup{clients: 2 * clients, targets: 2, history: keptMessages})
	if err != nil {
		return err
	}
	defer p.stop()
	turns := 2 * pick(b, 8, 2)
	for turn := range 2 + turns { // the first two warm up
		sc.Target, sc.Targets = (turn+turn/2)%2, 1 // 0 1, 1 0, 0 1, ...
		m, _, err := p.publish(ctx, sc)
		if err != nil {
			return err
		}
		if turn < 2 {
			continue
		}
		res := result{variant, m, p.note}
		if sc.Target == 0 {
			res.variant += kept
		}
		*all = append(*all, res)
	}
	return nil
}

// Variants of the row resume.
const (
	replay    = "subscribe, replay"
	handshake = "and the handshake"
)

// missedMessages is the number of messages that are published while the clients of the
// row resume are away.
const missedMessages = 100

// resume disconnects all clients of a channel with history, publishes, connects the
// clients again, and makes all of them subscribe with their positions.
func resume(ctx context.Context, b *bench, s spec) ([]result, error) {
	n := pick(b, 10*b.clients, b.clients)
	p, err := b.connected(ctx, s, setup{clients: n, history: keptMessages, subscribe: true})
	if err != nil {
		return nil, err
	}
	defer p.stop()
	var first api.Subscribed
	if err := p.gen.Call(ctx, "/subscribe", api.Subscribe{Stall: stall}, &first); err != nil {
		return nil, err
	}
	if first.Replies != uint64(n) {
		return nil, fmt.Errorf("%d of %d clients have subscribed", first.Replies, n)
	}
	if err := p.warm(ctx); err != nil {
		return nil, err
	}
	var all []result
	for range pick(b, 3, 1) {
		results, err := p.resume(ctx, n)
		if err != nil {
			return all, err
		}
		all = append(all, results...)
	}
	return all, nil
}

func (p *pair) resume(ctx context.Context, n int) ([]result, error) {
	if err := p.away(ctx, missedMessages); err != nil {
		return nil, err
	}
	var before api.Usage
	var back api.Subscribed
	if err := p.srv.Call(ctx, "/usage", true, &before); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := p.gen.Call(ctx, "/reconnect", struct{}{}, &struct{}{}); err != nil {
		return nil, err
	}
	if err := p.await(ctx, n); err != nil {
		return nil, err
	}
	connecting := time.Since(began)
	w, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	missed := uint64(n) * missedMessages
	if err := p.gen.Call(ctx, "/subscribe", api.Subscribe{Expect: missed, Stall: stall}, &back); err != nil {
		return nil, err
	}
	m, after, err := p.close(ctx, w, back.Received)
	if err != nil {
		return nil, err
	}
	delete(m, mP50)
	delete(m, mP99)
	delete(m, mMax)
	m[mLost] = float64(missed) - float64(back.Received)
	m[mIncomplete] = float64(n) - float64(back.Complete)
	whole := maps.Clone(m)
	m.server(w.srv, after, back.Received, back.Wall)
	whole.server(before, after, back.Received, connecting+back.Wall)
	return []result{{replay, m, p.note}, {handshake, whole, p.note}}, nil
}

// away disconnects all clients and publishes n messages meanwhile.
func (p *pair) away(ctx context.Context, n int) error {
	if err := p.gen.Call(ctx, "/disconnect", struct{}{}, &struct{}{}); err != nil {
		return err
	}
	if err := p.await(ctx, 0); err != nil {
		return err
	}
	sc := p.scenario(api.Scenario{Burst: n, Repeat: 1})
	sc.PerPublish = 0
	return p.srv.Call(ctx, "/run", sc, &api.Outcome{})
}
