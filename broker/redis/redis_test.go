package redis_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/redis"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func (e *engine) faults() brokertest.Engine {
	return brokertest.Engine{Broker: e.broker, Stop: e.stop, Start: e.start, Pause: e.pause, Resume: e.resume, Patience: patience}
}

func (c *cluster) faults() brokertest.Engine {
	return brokertest.Engine{Broker: c.broker, Stop: c.stop, Start: c.start, Pause: c.pause, Resume: c.resume, Patience: patience}
}

func TestContract(t *testing.T) {
	onEach(t, func(t *testing.T, server string) { brokertest.Run(t, startEngine(t, server).faults()) })
}

func TestContractOfCluster(t *testing.T) {
	onEach(t, func(t *testing.T, server string) { brokertest.Run(t, startCluster(t, server, 10*time.Second).faults()) })
}

func TestOpenFails(t *testing.T) {
	for _, prefix := range []string{"{x}:", "x", "a:c.", "a:b:", "x::"} {
		require.ErrorContains(t, redis.New(redis.Options{Prefix: prefix}).Open(nil), "prefix")
	}
}

func TestHubs(t *testing.T) {
	onEach(t, func(t *testing.T, server string) { brokertest.RunHubs(t, startEngine(t, server).faults()) })
}

func TestTraffic(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		e := startEngine(t, server)
		quiet := func() websocket.Broker { // publishes no probes during the test
			return redis.New(redis.Options{
				Connect: &goredis.UniversalOptions{Addrs: []string{e.addr()}}, PingInterval: time.Hour,
			})
		}
		brokertest.RunTraffic(t, brokertest.Engine{Broker: quiet}, func() (in, out int) {
			info, err := e.client.Info(context.Background(), "commandstats").Result()
			require.NoError(t, err)
			_, rest, _ := strings.Cut(info, "cmdstat_publish:calls=")
			_, err = fmt.Sscanf(rest, "%d", &in)
			require.NoError(t, err)
			return in, -1 // the server does not count deliveries
		}, true)
	})
}

func TestHistories(t *testing.T) {
	onEach(t, func(t *testing.T, server string) { brokertest.RunHistories(t, startEngine(t, server).faults()) })
}
