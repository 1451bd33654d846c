package jsonscan_test

import (
	"strings"
	"testing"

	"github.com/maoxiaoyue/hypgo-websocket/internal/jsonscan"
)

func BenchmarkValid(b *testing.B) {
	text := (`{"text":"` + strings.Repeat("payload ", 4096/8))[:4094] + `"}`
	numbers := "[" + strings.Repeat("123456,", 4096/7) + "1]"
	objects := "[" + strings.Repeat(`{"id":17,"ok":true,"name":"bob"},`, 4096/33) + "0]"
	chinese := `"` + strings.Repeat("頻道", 4096/6) + `"`
	for _, bb := range []struct {
		kind, text string
	}{
		{"text", text}, {"numbers", numbers}, {"objects", objects}, {"chinese", chinese},
	} {
		b.Run("kind="+bb.kind, func(b *testing.B) {
			data := []byte(bb.text)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if !jsonscan.Valid(data) {
					b.Fatal("invalid")
				}
			}
		})
	}
}
