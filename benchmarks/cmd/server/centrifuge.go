package main

import (
	"compress/flate"
	"context"
	"net/http"

	"github.com/centrifugal/centrifuge"
)

func init() {
	systems["centrifuge"] = func(opt options) (system, error) { return newCentrifuge(opt, false) }
	systems["centrifuge-tuned"] = func(opt options) (system, error) { return newCentrifuge(opt, true) }
}

// centrifugeHub is centrifuge. The server subscribes a client to its channel when
// it handles the client's connect command. With tuned, centrifuge pools its write
// buffers, puts any number of messages into a frame, and compresses each message
// once for all clients.
type centrifugeHub struct {
	opt     options
	node    *centrifuge.Node
	handler *centrifuge.WebsocketHandler
}

// targetKey is the key of a connection's target in its request context.
type targetKey struct{}

// userKey is the key of a connection's user in its request context.
type userKey struct{}

func newCentrifuge(opt options, tuned bool) (system, error) {
	if opt.sealed != "" {
		return nil, errCannotSeal
	}
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		return nil, err
	}
	node.OnConnecting(func(ctx context.Context, _ centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		reply := centrifuge.ConnectReply{
			Credentials: &centrifuge.Credentials{UserID: ctx.Value(userKey{}).(string)},
		}
		if !opt.subscribe {
			t := ctx.Value(targetKey{}).(int)
			reply.Subscriptions = map[string]centrifuge.SubscribeOptions{targetName(t): {EnableRecovery: opt.keeps(t)}}
		}
		if tuned {
			reply.MaxMessagesInFrame = -1
		}
		return reply, nil
	})
	node.OnConnect(func(c *centrifuge.Client) {
		t := c.Context().Value(targetKey{}).(int)
		channel := targetName(t)
		c.OnSubscribe(func(_ centrifuge.SubscribeEvent, reply centrifuge.SubscribeCallback) {
			reply(centrifuge.SubscribeReply{Options: centrifuge.SubscribeOptions{
				EnableRecovery: opt.keeps(t), EmitPresence: opt.presence, EmitJoinLeave: opt.presence, PushJoinLeave: opt.presence,
			}}, nil)
		})
		c.OnMessage(func(e centrifuge.MessageEvent) { _, _ = node.Publish(channel, e.Data) }) // a failure is counted as a loss by the load generator
	})
	if opt.engine != "" {
		shard, err := centrifuge.NewRedisShard(node, centrifuge.RedisShardConfig{Address: opt.engine})
		if err != nil {
			return nil, err
		}
		broker, err := centrifuge.NewRedisBroker(node, centrifuge.RedisBrokerConfig{Shards: []*centrifuge.RedisShard{shard}})
		if err != nil {
			return nil, err
		}
		node.SetBroker(broker)
	}
	if err := node.Run(); err != nil {
		return nil, err
	}
	config := centrifuge.WebsocketConfig{
		Compression: opt.deflate, CompressionLevel: flate.BestSpeed,
		UseWriteBufferPool: tuned,
	}
	if tuned && opt.deflate {
		config.CompressionPreparedMessageCacheSize = 64 << 20
	}
	return &centrifugeHub{opt, node, centrifuge.NewWebsocketHandler(node, config)}, nil
}

func (h *centrifugeHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t, err := target(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx := context.WithValue(context.WithValue(r.Context(), targetKey{}, t), userKey{}, userName(r))
	h.handler.ServeHTTP(w, r.WithContext(ctx))
}

func (h *centrifugeHub) publish(target int, p []byte) error {
	var keep []centrifuge.PublishOption
	if h.opt.keeps(target) {
		keep = []centrifuge.PublishOption{centrifuge.WithHistory(h.opt.history, historyAge)}
	}
	_, err := h.node.Publish(targetName(target), p, keep...)
	return err
}

func (h *centrifugeHub) flush() {}

func (h *centrifugeHub) members() int {
	if h.opt.subscribe {
		return h.node.Hub().NumClients()
	}
	return h.node.Hub().NumSubscriptions()
}
