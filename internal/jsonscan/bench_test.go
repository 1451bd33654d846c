package jsonscan_test

import (
	"bytes"
	"testing"

	"github.com/maoxiaoyue/hypgo-websocket/internal/jsonscan"
)

func BenchmarkValid(b *testing.B) {
	text := append(append([]byte(`{"text":"`), bytes.Repeat([]byte("payload "), 4096/8)...)[:4094], `"}`...)
	numbers := append(bytes.Repeat([]byte("123456,"), 4096/7), '1')
	numbers = append(append([]byte{'['}, numbers...), ']')
	objects := append(bytes.Repeat([]byte(`{"id":17,"ok":true,"name":"bob"},`), 4096/33), '0')
	objects = append(append([]byte{'['}, objects...), ']')
	chinese := append(append([]byte{'"'}, bytes.Repeat([]byte("頻道"), 4096/6)...), '"')
	for _, bb := range []struct {
		kind string
		data []byte
	}{
		{"text", text}, {"numbers", numbers}, {"objects", objects}, {"chinese", chinese},
	} {
		b.Run("kind="+bb.kind, func(b *testing.B) {
			b.SetBytes(int64(len(bb.data)))
			b.ReportAllocs()
			for b.Loop() {
				if !jsonscan.Valid(bb.data) {
					b.Fatal("invalid")
				}
			}
		})
	}
}
