package redis

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

var errDeaf = errors.New("redis: what is published does not reach the subscriptions")

// firstProbes is how often the first probe is tried at once: connections that are
// kept for publishing may be broken, too.
const firstProbes = 32

// probe publishes a number to the session's own channel, at first and then at
// intervals, and pings the connection with the same number when that has been
// done. serve sees by both whether publications come to where the session is
// subscribed: after a failover they may not, although the former server goes on
// answering. It ends with the returned function.
func (s *session) probe(pubsub *redis.PubSub) (stop func()) {
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
			if s.publish(ctx) == nil { // a failure says nothing of the subscriptions
				_ = pubsub.Ping(s.ctx, strconv.Itoa(s.probed)) // and one of this shows in serve
			}
		}
	})
	return func() { cancel(); ended.Wait() }
}

func (s *session) firstProbe(ctx context.Context) (err error) {
	var refused redis.Error
	for range firstProbes {
		err = s.publish(ctx)
		if err == nil || ctx.Err() != nil || errors.As(err, &refused) || errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
	return err
}

// publish publishes the next probe, over one of the connections of Publish, which
// are others than those of single commands.
func (s *session) publish(ctx context.Context) error {
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

// hear takes a probe that has come back.
func (s *session) hear(payload string) {
	s.echoed, _ = strconv.Atoi(payload)
	s.heard = true
}

// pong takes the answer to a ping. The last probe but one has to be there; for a
// shorter time it may be under way between two servers.
func (s *session) pong(payload string) error {
	if number, err := strconv.Atoi(payload); err == nil && s.echoed < number-1 {
		return errDeaf
	}
	return nil
}
