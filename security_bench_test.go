package websocket_test

import (
	"fmt"
	"testing"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/seal/sealtest"
)

var securitySizes = []int{128, 4096}

func BenchmarkEncrypt(b *testing.B) {
	for _, size := range securitySizes {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			plaintext := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := websocket.Encrypt(plaintext, sealtest.AESKey); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSign(b *testing.B) {
	for _, size := range securitySizes {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			data := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				websocket.Sign(data, sealtest.HMACKey)
			}
		})
	}
}
