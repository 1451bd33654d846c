//go:build unix

package redis_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// counter is a subscriber that only counts.
type counter struct {
	want, got int
	up, done  chan struct{}
}

func (c *counter) Up()            { close(c.up) }
func (c *counter) Down(error)     {}
func (c *counter) Lost(...string) {}
func (c *counter) Receive([]byte) { c.count() }

func (c *counter) Record(websocket.BrokerRecord) { c.count() }

func (c *counter) count() {
	if c.got++; c.got == c.want {
		close(c.done)
	}
}

func cpu() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// cpu returns the CPU time that the server has used.
func (e *engine) cpu() time.Duration {
	e.t.Helper()
	var total float64
	for line := range strings.Lines(e.client.Info(context.Background(), "cpu").Val()) {
		var seconds float64
		if n, _ := fmt.Sscanf(line, "used_cpu_user:%g", &seconds); n == 1 {
			total += seconds
		}
		if n, _ := fmt.Sscanf(line, "used_cpu_sys:%g", &seconds); n == 1 {
			total += seconds
		}
	}
	return time.Duration(total * float64(time.Second))
}

// BenchmarkAppend appends records of 128 bytes, which one other Broker receives. It reports
// the CPU time of a record at the server, and that of both Brokers. Publish is the same
// without a history.
func BenchmarkAppend(b *testing.B) {
	const (
		plain = 1 << iota
		keyed
		publish
	)
	keep := websocket.HistoryOptions{Messages: 1000, Age: time.Minute}
	for _, bb := range []struct {
		name          string
		batch, topics int
		kind          int
		keep          websocket.HistoryOptions
	}{
		{"Publish/Batch=1", 1, 1, publish, keep},
		{"Publish/Batch=16", 16, 16, publish, keep},
		{"Publish/Batch=256", 256, 16, publish, keep},
		{"Append/Batch=1", 1, 1, plain, keep},
		{"Append/Batch=16/Topics=16", 16, 16, plain, keep},
		{"Append/Batch=256/Topics=1", 256, 1, plain, keep},
		{"Append/Batch=256/Topics=256", 256, 256, plain, keep},
		{"Keys/Batch=16/Topics=16", 16, 16, keyed, keep},
		{"Bytes/Batch=16/Topics=16", 16, 16, plain, websocket.HistoryOptions{Bytes: 128 << 10, Age: time.Minute}},
		{"Age/Batch=16/Topics=16", 16, 16, plain, websocket.HistoryOptions{Age: 200 * time.Millisecond}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			e := startEngine(b, "redis-server")
			ctx := context.Background()
			c := &counter{want: 1, up: make(chan struct{}), done: make(chan struct{})}
			receiver := e.broker()
			sender := &counter{up: make(chan struct{})}
			h := e.broker().(websocket.HistoryBroker)
			for broker, handler := range map[websocket.Broker]*counter{receiver: c, h: sender} {
				require.NoError(b, broker.Open(handler))
				b.Cleanup(func() { _ = broker.Close() })
				<-handler.up
			}
			records := make([]websocket.BrokerRecord, bb.batch)
			messages := make([]websocket.BrokerMessage, bb.batch)
			topics := make([]string, bb.topics)
			payload := []byte(strings.Repeat("x", 128))
			for i := range topics {
				topics[i] = fmt.Sprint("c.topic", i)
			}
			for i := range records {
				topic := topics[i%bb.topics]
				records[i] = websocket.BrokerRecord{Topic: topic, Payload: payload, Keep: bb.keep}
				messages[i] = websocket.BrokerMessage{Topic: topic, Payload: payload}
			}
			require.NoError(b, receiver.Subscribe(ctx, topics))
			rounds := (b.N + bb.batch - 1) / bb.batch
			c.want = rounds * bb.batch
			server, client := e.cpu(), cpu()
			b.ResetTimer()
			for i := range rounds {
				switch bb.kind {
				case publish:
					require.NoError(b, h.Publish(ctx, messages))
					continue
				case keyed:
					for j := range records {
						records[j].Key = fmt.Sprint("user-id:", i, "-", j)
					}
				}
				for _, r := range h.Append(ctx, records) {
					require.NoError(b, r.Err)
				}
			}
			<-c.done
			b.StopTimer()
			count := float64(c.want)
			b.ReportMetric(float64((e.cpu()-server).Nanoseconds())/count, "server-ns/op")
			b.ReportMetric(float64((cpu()-client).Nanoseconds())/count, "client-ns/op")
		})
	}
}
