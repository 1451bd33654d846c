//go:build unix

package websocket_test

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// BenchmarkPublishWithHistory compares a channel with history with one without. In a burst
// all messages are published at once; paced messages are published one at a time, each
// when the previous one is written.
func BenchmarkPublishWithHistory(b *testing.B) {
	for _, members := range []int{1, 10, 100, 1000} {
		for _, paced := range []bool{false, true} {
			for _, channel := range []string{"plain", "kept"} {
				b.Run(fmt.Sprintf("members=%d/paced=%v/%s", members, paced, channel), func(b *testing.B) {
					h := newBenchHub(b, keepChannel("kept", 10_000), func(c *websocket.Client) { _ = c.Subscribe(channel) })
					for range members {
						h.connect("json")
					}
					data := jsonPayload(128)
					publish := func(n int) {
						for range n {
							_ = h.PublishToChannelRaw(channel, data)
							for paced && h.Unsent() != 0 {
								runtime.Gosched()
							}
						}
						h.waitUntilSent()
					}
					publish(20_000) // the history is full
					b.ReportAllocs()
					b.ResetTimer()
					before := cpuTime()
					publish(b.N)
					b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
				})
			}
		}
	}
}

// BenchmarkHistoryEntry measures the memory of 100,000 publications in a history, besides
// their payload and key, and besides the bytes of their encoded forms.
func BenchmarkHistoryEntry(b *testing.B) {
	const entries = 100_000
	for _, codecs := range [][]string{nil, {"json"}, {"json", "protobuf"}} {
		for _, keyed := range []bool{false, true} {
			b.Run(fmt.Sprintf("forms=%d/keyed=%v", len(codecs), keyed), func(b *testing.B) {
				config := keepChannel("kept", entries)
				var bytes, counted float64
				for range b.N {
					h := newBenchHub(b, config, func(c *websocket.Client) { _ = c.Subscribe("kept") })
					for _, codec := range codecs {
						h.connect(codec)
					}
					before := heapInUse()
					data := jsonPayload(128)
					for i := range entries {
						m := &websocket.Message{Data: data}
						if keyed {
							m.Key = fmt.Sprintf("%022d", i)
						}
						_ = h.PublishToChannel("kept", m)
						if i%100 == 0 {
							h.waitUntilSent()
						}
					}
					h.waitUntilSent()
					time.Sleep(10 * time.Millisecond)
					bytes += float64(heapInUse()-before) / entries
					counted += float64(h.Stats().HistoryBytes) / entries
				}
				b.ReportMetric(bytes/float64(b.N), "bytes/entry")
				b.ReportMetric(counted/float64(b.N), "counted/entry")
			})
		}
	}
}

// cpuTime returns the processor time that the process has used. Other programs disturb it
// less than the time on the clock.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage) // fails only on a bad argument
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
