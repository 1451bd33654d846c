//go:build unix

package alerts

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	wsotel "github.com/maoxiaoyue/hypgo-websocket/metrics/otel"
	wsprometheus "github.com/maoxiaoyue/hypgo-websocket/metrics/prometheus"
)

// cpuTime returns the CPU time of this process.
func cpuTime(tb testing.TB) time.Duration {
	var usage syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// discardWriter is a ResponseWriter whose Hijack returns nc.
type discardWriter struct {
	http.ResponseWriter
	nc net.Conn
}

func (w discardWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.nc, bufio.NewReadWriter(bufio.NewReaderSize(w.nc, 16), bufio.NewWriterSize(w.nc, 16)), nil
}

// BenchmarkCost measures the CPU time of a delivery to connections that cost nothing, and that
// of a collection for Prometheus and one for OpenTelemetry, in turns. Its percent are those of
// the deliveries if both are collected every 10 seconds of their CPU time.
func BenchmarkCost(b *testing.B) {
	const clients, publications = 1000, 20
	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(context.Background()) }() // ends with the hub
	registry := prometheus.NewRegistry()
	registry.MustRegister(wsprometheus.NewCollector(hub))
	reader := sdkmetric.NewManualReader(sdkmetric.WithProducer(wsotel.NewProducer(hub)))
	_, err := wsotel.Register(hub, sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	require.NoError(b, err)
	for range clients {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header = http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
		}
		hub.Handler().ServeHTTP(discardWriter{httptest.NewRecorder(), testnet.NewDiscardConn()}, r)
	}
	sent := uint64(0)
	deliver := func() {
		for range publications {
			require.NoError(b, hub.Broadcast(make([]byte, 128)))
		}
		for sent += clients * publications; hub.Stats().MessagesSent < sent; {
			time.Sleep(100 * time.Microsecond)
		}
	}
	var metrics metricdata.ResourceMetrics
	collect := func() {
		_, err := registry.Gather()
		require.NoError(b, err)
		require.NoError(b, reader.Collect(context.Background(), &metrics))
	}
	var delivering, collecting time.Duration
	for b.Loop() {
		began := cpuTime(b)
		deliver()
		middle := cpuTime(b)
		collect()
		delivering += middle - began
		collecting += cpuTime(b) - middle
	}
	b.ReportMetric(float64(delivering)/float64(b.N*clients*publications), "cpu-ns/delivery")
	b.ReportMetric(float64(collecting)/float64(b.N)/1e3, "cpu-µs/collection")
	b.ReportMetric(100*float64(collecting)/float64(b.N)/float64(10*time.Second), "percent")
	require.NoError(b, hub.Shutdown(context.Background()))
	require.NoError(b, <-ran)
}
