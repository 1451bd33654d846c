package redis

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

var errNotReached = errors.New("redis: publications do not reach the subscriptions")

// firstProbes is how often the first probe is tried without a delay: each attempt may
// take a broken connection from the pool.
const firstProbes = 32

// startProbes starts a goroutine that publishes probes for a connection, one at once
// and one per PingInterval. A probe is a number published to the session's anchor.
// After each, the goroutine pings the connection with the same number, so that serve
// can tell from the pong if probes are missing: after a failover, a former master may
// still respond but receives no publications. stop ends the goroutine and waits for
// it.
func (s *session) startProbes(pubsub *redis.PubSub) (stop func()) {
	ctx, cancel := context.WithCancel(s.broker.ctx)
	s.echoed, s.heard = s.probed, false
	var ended sync.WaitGroup
	ended.Go(func() { // ends with stop
		if err := s.firstProbe(ctx); err != nil {
			if ctx.Err() == nil {
				s.abort(err)
			}
			return
		}
		tick := time.NewTicker(s.broker.options.PingInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if s.publishProbe(ctx) == nil { // an error of publishing is no sign of a broken subscription
				_ = pubsub.Ping(s.ctx, strconv.Itoa(s.probed)) // serve sees the failure of the connection
			}
		}
	})
	return func() { cancel(); ended.Wait() }
}

// firstProbe publishes the first probe of a connection. Errors that a retry cannot
// change end it at once.
func (s *session) firstProbe(ctx context.Context) (err error) {
	var refused redis.Error
	for range firstProbes {
		err = s.publishProbe(ctx)
		if err == nil || ctx.Err() != nil || errors.As(err, &refused) || errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
	return err
}

// publishProbe publishes the next probe. It uses a pipeline like Publish, since
// go-redis may send single commands over other connections.
func (s *session) publishProbe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.broker.options.PingInterval)
	defer cancel()
	pipe, payload := s.broker.client.Pipeline(), strconv.Itoa(s.probed+1)
	if s.broker.cluster != nil {
		pipe.SPublish(ctx, s.anchor, payload)
	} else {
		pipe.Publish(ctx, s.anchor, payload)
	}
	_, err := pipe.Exec(ctx)
	if err == nil {
		s.probed++
	}
	return err
}

// receiveProbe records a probe that has arrived.
func (s *session) receiveProbe(payload string) {
	s.echoed, _ = strconv.Atoi(payload)
	s.heard = true
}

// receivePong checks that all probes before the latest have arrived. The latest may
// still be under way between two servers.
func (s *session) receivePong(payload string) error {
	if number, err := strconv.Atoi(payload); err == nil && s.echoed < number-1 {
		return errNotReached
	}
	return nil
}
