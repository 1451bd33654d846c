package websocket

import (
	"bufio"
	"bytes"
	"net/http"
	"testing"

	flatbuffers "github.com/google/flatbuffers/go"
)

// BenchmarkPools compares each pool with allocating every time, to show that the pool
// is worth keeping.
func BenchmarkPools(b *testing.B) {
	h := NewHub(nil, Config{})
	m := &Message{Type: "message", Channel: "news", Data: bytes.Repeat([]byte("1"), 128)}

	for _, bench := range []struct {
		name          string
		pooled, fresh func()
	}{
		{"message",
			func() { AcquireMessage().Release() },
			func() { sink = &Message{Type: "message"} },
		},
		{"publication",
			func() {
				p := h.newPublication(m, toChannel)
				p.frame(formOf(0, plain))
				p.release()
			},
			func() {
				p := &publication{hub: h, msg: *m, cost: messageCost(m)}
				p.msg.Data = append([]byte(nil), m.Data...)
				p.frame(formOf(0, plain))
				sink = p
			},
		},
		{"buffer",
			func() { putBuffer(getBuffer(4096)) },
			func() { sink = make([]byte, 0, 4096) },
		},
		{"inbound message",
			func() { m := inboundPool.Get().(*Message); *m = Message{}; inboundPool.Put(m) },
			func() { sink = new(Message) },
		},
		{"read buffer",
			func() {
				br, ok := h.upgrader.buffers.Get().(*bufio.Reader)
				if !ok {
					br = bufio.NewReaderSize(nil, h.upgrader.bufferSize)
				}
				br.Reset(nil)
				h.upgrader.buffers.Put(br)
			},
			func() { sink = bufio.NewReaderSize(nil, h.upgrader.bufferSize) },
		},
		{"reader",
			func() { h.upgrader.readers.Put(h.upgrader.spareReader()) },
			func() {
				r := &http.Request{Method: http.MethodGet, Header: spareHandshake}
				sink, _ = h.upgrader.newReader(nil, nil, r, bufio.NewWriterSize(nil, 16), nil)
			},
		},
		{"flatbuffers builder",
			func() { builderPool.Put(builderPool.Get()) },
			func() { sink = flatbuffers.NewBuilder(1024) },
		},
		{"batch",
			func() { pumpWritePool.Get().(*pumpWrite).recycle() },
			func() { sink = &frameBuffer{b: make([]byte, 0, joinSize)} },
		},
	} {
		for way, f := range map[string]func(){"yes": bench.pooled, "no": bench.fresh} {
			b.Run("of="+bench.name+"/pool="+way, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
			})
		}
	}
}

var sink any // makes allocations escape to the heap
