package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
)

// presence disconnects all members of a channel and lets them come back, without and with
// presence. The peers send each member a message for each other member, too many for a
// large channel.
func presence(ctx context.Context, b *bench, s spec) (all []result, err error) {
	for _, n := range []int{1, 10} {
		if n > 1 && slices.Contains(peers, s.name) {
			break
		}
		variant := fmt.Sprintf("%d,000", n)
		for _, with := range []bool{false, true} {
			res, err := b.wave(ctx, s, setup{clients: pick(b, n*b.clients, n*b.clients/10), subscribe: true, presence: with})
			if err != nil {
				return all, fmt.Errorf("%s members: %w", variant, err)
			}
			res.variant = variant
			if !with {
				res.variant += ", no presence"
			}
			all = append(all, res)
		}
	}
	return all, nil
}

func (b *bench) wave(ctx context.Context, s spec, set setup) (res result, err error) {
	p, err := b.connected(ctx, s, set)
	if err != nil {
		return res, err
	}
	defer p.stop()
	var first api.Subscribed
	if err := p.gen.Call(ctx, "/subscribe", api.Subscribe{Stall: stall}, &first); err != nil {
		return res, err
	}
	if err := p.gen.Call(ctx, "/disconnect", struct{}{}, &struct{}{}); err != nil {
		return res, err
	}
	if err := p.await(ctx, 0); err != nil {
		return res, err
	}
	w, err := p.open(ctx)
	if err != nil {
		return res, err
	}
	var got api.WaveResult
	if err := p.gen.Call(ctx, "/wave", api.Wave{Quiet: 1500 * time.Millisecond, Limit: time.Minute}, &got); err != nil {
		return res, err
	}
	m, srv, err := p.close(ctx, w, uint64(p.clients))
	if err != nil {
		return res, err
	}
	m.server(w.srv, srv, uint64(p.clients), got.Wall)
	m[mUnknown], m[mIncomplete] = 0, float64(p.clients)-float64(got.Replies)
	if set.presence {
		n := float64(p.clients)
		m[mNotices], m[mChanges] = float64(got.Notices)/n, float64(got.Changes)/n
		m[mNoticeRate] = float64(max(got.Most, 1)-1) / got.Wall.Seconds() // n messages have n-1 intervals between them
		if got.Known >= 0 {
			m[mUnknown] = n - float64(got.Known)
		}
	}
	return result{sample: m, note: p.note}, nil
}
