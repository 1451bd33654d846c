package websocket_test

import (
	"bytes"
	"fmt"
	"testing"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// benchMessage returns a message whose payload is a JSON object of size bytes.
func benchMessage(size int) *websocket.Message {
	data := append([]byte(`{"text":"`), bytes.Repeat([]byte("payload "), size/8+1)...)
	data = append(data[:size-2], `"}`...)
	return &websocket.Message{
		Type:      "message",
		Channel:   "news",
		Data:      data,
		Timestamp: 1763769600000000000,
		ClientID:  "client-1763769600000000001",
	}
}

func BenchmarkMarshal(b *testing.B) {
	for _, codec := range codecs {
		for _, size := range []int{128, 4096} {
			b.Run(fmt.Sprintf("codec=%s/size=%d", codec.Name(), size), func(b *testing.B) {
				msg := benchMessage(size)
				buf, err := codec.AppendMarshal(nil, msg)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					buf, _ = codec.AppendMarshal(buf[:0], msg)
				}
			})
		}
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	for _, codec := range codecs {
		for _, size := range []int{128, 4096} {
			b.Run(fmt.Sprintf("codec=%s/size=%d", codec.Name(), size), func(b *testing.B) {
				data, err := codec.Marshal(benchMessage(size))
				if err != nil {
					b.Fatal(err)
				}
				var msg websocket.Message
				b.ReportAllocs()
				for b.Loop() {
					if err := codec.Unmarshal(data, &msg); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
