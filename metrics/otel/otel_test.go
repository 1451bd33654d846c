package otel_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	wsotel "github.com/maoxiaoyue/hypgo-websocket/metrics/otel"
)

// collect returns the metrics that a reader gets, by name.
func collect(t *testing.T, reader sdkmetric.Reader) map[string]metricdata.Metrics {
	t.Helper()
	var rm metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &rm))
	byName := make(map[string]metricdata.Metrics)
	for _, s := range rm.ScopeMetrics {
		for _, m := range s.Metrics {
			require.NotContains(t, byName, m.Name)
			byName[m.Name] = m
		}
	}
	return byName
}

// TestLiveHub collects from a hub with a broker.
func TestLiveHub(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.Broker = brokertest.NewMemory(0).Broker()
	ended := make(chan struct{}) // closed by OnDisconnect
	config.OnDisconnect = func(*websocket.Client) { close(ended) }
	hub := websocket.NewHub(nil, config)
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(context.Background()) }() // ends with the hub
	reader := sdkmetric.NewManualReader(sdkmetric.WithProducer(wsotel.NewProducer(hub)))
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	registration, err := wsotel.Register(hub, provider)
	require.NoError(t, err)
	require.NoError(t, hub.BrokerReady(t.Context())) // otherwise a gap may come before the reply
	server := httptest.NewServer(hub.Handler())
	defer server.Close()
	peer, _, err := (&websocket.Dialer{}).Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	require.NoError(t, err)
	require.NoError(t, peer.WriteJSON(map[string]any{"type": "subscribe", "id": "1", "data": map[string]any{"channel": "news"}}))
	_, _, err = peer.ReadMessage()
	require.NoError(t, err)
	metrics := collect(t, reader)
	names := regexp.MustCompile(`^websocket\.hub\.[a-z_]+(\.[a-z_]+)*$`)
	for name, m := range metrics {
		require.Regexp(t, names, name)
		require.NotEmpty(t, m.Unit, name)
		require.NotEmpty(t, m.Description, name)
	}
	value := func(name string) int64 {
		require.Contains(t, metrics, name)
		return metrics[name].Data.(metricdata.Sum[int64]).DataPoints[0].Value
	}
	require.EqualValues(t, 1, value("websocket.hub.connections"))
	require.EqualValues(t, 1, value("websocket.hub.broker.up"))
	handshakes := metrics["websocket.hub.handshake.duration"].Data.(metricdata.ExponentialHistogram[float64]).DataPoints
	require.Len(t, handshakes, 1)
	require.EqualValues(t, 1, handshakes[0].Count)
	require.Equal(t, []uint64{1}, handshakes[0].PositiveBucket.Counts)
	require.NoError(t, peer.Close())
	<-ended
	require.NoError(t, hub.Shutdown(t.Context()))
	require.NoError(t, <-ran)
	metrics = collect(t, reader)
	require.Zero(t, value("websocket.hub.connections"))
	require.EqualValues(t, 1, value("websocket.hub.connections.opened"))
	require.NoError(t, registration.Unregister())
	require.NotContains(t, collect(t, reader), "websocket.hub.connections")
}

// TestEveryFigureIsExported gives every figure of Stats a value of its own and looks for it.
func TestEveryFigureIsExported(t *testing.T) {
	t.Parallel()
	st := websocket.Stats{Broker: &websocket.BrokerStats{}}
	want := make(map[int64]string)
	next := int64(1000)
	var fill func(v reflect.Value, path string)
	fill = func(v reflect.Value, path string) {
		switch {
		case v.Type() == reflect.TypeFor[websocket.Histogram]():
			next++
			v.Addr().Interface().(*websocket.Histogram).Count = uint64(next)
			want[next] = path
		case v.Type() == reflect.TypeFor[time.Time]():
		case v.Kind() == reflect.Pointer:
			fill(v.Elem(), path)
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				fill(v.Field(i), path+"."+v.Type().Field(i).Name)
			}
		case v.Kind() == reflect.Array:
			for i := range v.Len() {
				fill(v.Index(i), fmt.Sprintf("%s[%d]", path, i))
			}
		case v.CanInt():
			next++
			v.SetInt(next)
			want[next] = path
		case v.CanUint():
			next++
			v.SetUint(uint64(next))
			want[next] = path
		}
	}
	fill(reflect.ValueOf(&st).Elem(), "Stats")
	for i := range st.Closes {
		delete(want, int64(st.Closes[i].Code))
		st.Closes[i].Code = i
	}
	delete(want, int64(st.MessagesAddressed)) // it may decrease, and the others tell it
	reader := sdkmetric.NewManualReader(sdkmetric.WithProducer(wsotel.ProducerOf(st)))
	_, err := wsotel.RegisterStats(st, sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	require.NoError(t, err)
	for _, m := range collect(t, reader) {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				delete(want, p.Value)
			}
		case metricdata.ExponentialHistogram[float64]:
			for _, p := range data.DataPoints {
				delete(want, int64(p.Count))
			}
		}
	}
	require.Empty(t, slices.Collect(maps.Values(want)))
}

// TestHistogramsAreThoseOfTheSDK compares with a histogram of the SDK that has seen the same
// durations.
func TestHistogramsAreThoseOfTheSDK(t *testing.T) {
	t.Parallel()
	st := websocket.NewHub(nil, websocket.DefaultConfig).Stats()
	handshakes := func() metricdata.ExponentialHistogram[float64] {
		reader := sdkmetric.NewManualReader(sdkmetric.WithProducer(wsotel.ProducerOf(st)))
		sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
		return collect(t, reader)["websocket.hub.handshake.duration"].Data.(metricdata.ExponentialHistogram[float64])
	}
	require.Empty(t, handshakes().DataPoints[0].PositiveBucket.Counts)

	view := sdkmetric.NewView(sdkmetric.Instrument{Name: "x"}, sdkmetric.Stream{Aggregation: sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 2}})
	sdkReader := sdkmetric.NewManualReader()
	original, err := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkReader), sdkmetric.WithView(view)).Meter("test").Float64Histogram("x")
	require.NoError(t, err)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	h := &st.Handshakes
	for range 10_000 {
		d := time.Duration(1<<11 + r.Int64N(1<<(1+r.IntN(35))))
		i := 0
		for h.UpperBound(i) < d.Seconds() {
			i++
		}
		h.Buckets[i]++
		h.Count++
		h.Sum += d
		original.Record(t.Context(), d.Seconds())
	}
	want := collect(t, sdkReader)["x"].Data.(metricdata.ExponentialHistogram[float64])
	got := handshakes()
	require.Equal(t, want.Temporality, got.Temporality)
	w, g := want.DataPoints[0], got.DataPoints[0]
	require.Equal(t, w.Scale, g.Scale)
	require.Equal(t, w.Count, g.Count)
	require.InDelta(t, w.Sum, g.Sum, 1e-3)
	require.Equal(t, w.PositiveBucket, g.PositiveBucket)
	require.Equal(t, st.Since, g.StartTime)
}
