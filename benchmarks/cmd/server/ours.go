//go:build !noours

package main

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/seal"
	"github.com/maoxiaoyue/hypgo-websocket/broker/nats"
	"github.com/maoxiaoyue/hypgo-websocket/broker/redis"
	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
	goredis "github.com/redis/go-redis/v9"
)

func init() {
	systems["ours"] = newOurs
	systems["ours-nats"] = newOurs
	systems["ours-awake"] = func(opt options) (system, error) {
		opt.awake = true
		return newOurs(opt)
	}
	systems["ours-ordinary"] = func(opt options) (system, error) {
		transport.DisableRaw()
		return newOurs(opt)
	}
}

func newOurs(opt options) (system, error) {
	cfg := websocket.DefaultConfig
	cfg.Compression = &websocket.CompressionConfig{Enabled: opt.deflate, Level: 1}
	if opt.sealed != "" {
		cfg.Security = &websocket.SecurityConfig{AESKey: seal.AESKey, HMACKey: seal.HMACKey, SignThenEncrypt: true}
	}
	if opt.history > 0 || opt.presence {
		cfg.TopicOptions = func(_ websocket.TopicKind, name string) (o websocket.TopicOptions) {
			if name == targetName(0) || opt.engine != "" {
				o.Presence = opt.presence
				if opt.history > 0 {
					o.History = websocket.HistoryOptions{Messages: opt.history, Age: historyAge}
				}
			}
			return o
		}
	}
	if opt.awake {
		cfg.HibernateAfter = -1
	}
	cfg.Broker = newBroker(opt)
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	h := &oursHub{hub: websocket.NewHub(websocket.SlogLogger(log), cfg), opt: opt}
	h.Handler = h.hub.Handler()
	h.hub.SetCallbacks(h.connected, func(*websocket.Client) { h.n.Add(-1) }, nil)
	go func() { // runs until the process exits
		if err := h.hub.Run(context.Background()); err != nil {
			log.Error("the hub stopped", "error", err)
			os.Exit(1)
		}
	}()
	return h, nil
}

// newBroker returns the broker of the engine, or nil without one.
func newBroker(opt options) websocket.Broker {
	if addr, ok := strings.CutPrefix(opt.engine, "redis://"); ok {
		return redis.New(redis.Options{Connect: &goredis.UniversalOptions{Addrs: []string{addr}}})
	}
	if opt.engine == "" {
		return nil
	}
	o := nats.Options{URL: opt.engine}
	if opt.history > 0 {
		o.History = &nats.History{Messages: int64(opt.history), Age: historyAge}
	}
	return nats.New(o)
}

// oursHub is this library, with a channel for one large target and rooms for many
// small ones.
type oursHub struct {
	http.Handler
	hub *websocket.Hub
	opt options
	n   atomic.Int64
}

func (h *oursHub) connected(c *websocket.Client) {
	h.n.Add(1)
	c.SetUser(userName(c.Request()))
	t, err := target(c.Request())
	if err == nil && h.opt.sealed == api.SealClient {
		err = ownKeys(c)
	}
	switch {
	case err != nil || h.opt.subscribe:
	case h.opt.rooms:
		err = c.JoinRoom(targetName(t))
	default:
		err = c.Subscribe(targetName(t))
	}
	if err != nil {
		_ = c.Close(websocket.CloseInternalError, err.Error())
	}
}

func ownKeys(c *websocket.Client) error {
	n, err := strconv.Atoi(c.Request().URL.Query().Get("client"))
	if err != nil {
		return err
	}
	if err := c.SetEncryptionKey(seal.ClientKey(n)); err != nil {
		return err
	}
	return c.SetHMACKey(seal.HMACKey)
}

func (h *oursHub) publish(target int, p []byte) error {
	if !h.opt.rooms {
		return h.hub.PublishToChannelRaw(targetName(target), p)
	}
	m := websocket.AcquireMessage()
	defer m.Release()
	m.Data = p
	return h.hub.PublishToRoom(targetName(target), m)
}

func (h *oursHub) flush() {}

func (h *oursHub) members() int { return int(h.n.Load()) }

func (h *oursHub) ready() http.Handler { return h.hub.ReadyHandler() }

func (h *oursHub) drain(ctx context.Context, o api.Drain) (api.Drained, error) {
	began := time.Now()
	r, err := h.hub.Drain(ctx, websocket.DrainOptions{Window: o.Window, Delay: o.Delay})
	if err == nil {
		err = h.hub.Shutdown(ctx)
	}
	return api.Drained{
		Clients: r.Clients, Left: r.Left, Closed: r.Closed, Cut: r.Cut, Began: began.UnixNano(), Took: time.Since(began),
	}, err
}
