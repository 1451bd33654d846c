package seal_test

import (
	"fmt"
	"testing"

	"github.com/maoxiaoyue/hypgo-websocket/internal/seal"
)

var sizes = []int{128, 4096}

func BenchmarkSeal(b *testing.B) {
	for _, o := range orders() {
		for _, size := range sizes {
			b.Run(fmt.Sprintf("order=%s/size=%d", o.Name, size), func(b *testing.B) {
				p := pipeline(b, o.Order)
				plaintext := make([]byte, size)
				buf := make([]byte, 0, size+p.Overhead())
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					p.AppendSeal(buf, plaintext)
				}
			})
		}
	}
}

// BenchmarkOpen includes copying the sealed bytes, because Open overwrites them.
func BenchmarkOpen(b *testing.B) {
	for _, o := range orders() {
		for _, size := range sizes {
			b.Run(fmt.Sprintf("order=%s/size=%d", o.Name, size), func(b *testing.B) {
				p := pipeline(b, o.Order)
				sealed := p.AppendSeal(nil, make([]byte, size))
				buf := make([]byte, len(sealed))
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					copy(buf, sealed)
					if _, err := p.Open(buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkSealParallel seals with the same keys in all goroutines.
func BenchmarkSealParallel(b *testing.B) {
	p := pipeline(b, orders()[2].Order)
	plaintext := make([]byte, 128)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, 0, len(plaintext)+p.Overhead())
		for pb.Next() {
			p.AppendSeal(buf, plaintext)
		}
	})
}

// BenchmarkSealPerClient seals for many clients with keys of their own, one message for
// each. Garbage collections empty the pools in between.
func BenchmarkSealPerClient(b *testing.B) {
	const clients = 20000
	pipelines := make([]*seal.Pipeline, clients)
	for i := range pipelines {
		pipelines[i] = pipeline(b, orders()[2].Order)
	}
	plaintext := make([]byte, 128)
	var buf []byte
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		buf = pipelines[i%clients].AppendSeal(make([]byte, 0, 256), plaintext)
		i++
	}
	_ = buf
}
