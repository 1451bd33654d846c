package prometheus_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	wsprometheus "github.com/maoxiaoyue/hypgo-websocket/metrics/prometheus"
)

// gather returns the metrics of a collector by name.
func gather(t *testing.T, c prometheus.Collector) map[string]*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(c))
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)
	families, err := registry.Gather()
	require.NoError(t, err)
	byName := make(map[string]*dto.MetricFamily)
	for _, f := range families {
		byName[f.GetName()] = f
	}
	return byName
}

// TestLiveHub scrapes a hub with a broker, and compares with its statistics.
func TestLiveHub(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.Broker = brokertest.NewMemory(0).Broker()
	ended := make(chan struct{}) // closed by OnDisconnect
	config.OnDisconnect = func(*websocket.Client) { close(ended) }
	hub := websocket.NewHub(nil, config)
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(context.Background()) }() // ends with the hub
	require.NoError(t, hub.BrokerReady(t.Context()))     // otherwise a gap may come before the reply
	server := httptest.NewServer(hub.Handler())
	defer server.Close()
	peer, _, err := (&websocket.Dialer{}).Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	require.NoError(t, err)
	require.NoError(t, peer.WriteJSON(map[string]any{"type": "subscribe", "id": "1", "data": map[string]any{"channel": "news"}}))
	_, _, err = peer.ReadMessage()
	require.NoError(t, err)
	families := gather(t, wsprometheus.NewCollector(hub))
	value := func(name string) float64 {
		require.Contains(t, families, name)
		m := families[name].Metric[0]
		return m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	require.InDelta(t, 1, value("websocket_connections"), 0)
	require.InDelta(t, 1, value("websocket_channels"), 0)
	require.InDelta(t, 1, value("websocket_messages_received_total"), 0)
	require.InDelta(t, 1, value("websocket_broker_up"), 0)
	require.InDelta(t, 1, value("websocket_broker_nodes"), 0)
	require.EqualValues(t, 1, families["websocket_handshake_duration_seconds"].Metric[0].GetHistogram().GetSampleCount())
	require.NoError(t, peer.Close())
	<-ended
	require.NoError(t, hub.Shutdown(t.Context()))
	require.NoError(t, <-ran)
	families = gather(t, wsprometheus.NewCollector(hub))
	require.Zero(t, value("websocket_connections"))
	require.InDelta(t, 1, value("websocket_connections_opened_total"), 0)
	closes := 0.0
	for _, m := range families["websocket_connections_closed_total"].Metric {
		closes += m.GetCounter().GetValue()
	}
	require.InDelta(t, 1, closes, 0)
}

// TestEveryFigureIsExported gives every figure of Stats a value of its own and looks for it.
func TestEveryFigureIsExported(t *testing.T) {
	t.Parallel()
	st := websocket.Stats{Broker: &websocket.BrokerStats{}}
	want := make(map[float64]string)
	next := 1000
	var fill func(v reflect.Value, path string)
	fill = func(v reflect.Value, path string) {
		switch {
		case v.Type() == reflect.TypeFor[websocket.Histogram]():
			h := v.Addr().Interface().(*websocket.Histogram)
			next++
			h.Count, h.Buckets[80] = uint64(next), uint64(next)
			want[float64(next)] = path
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
			v.SetInt(int64(next))
			want[float64(next)] = path
		case v.CanUint():
			next++
			v.SetUint(uint64(next))
			want[float64(next)] = path
		}
	}
	fill(reflect.ValueOf(&st).Elem(), "Stats")
	for i := range st.Closes {
		delete(want, float64(st.Closes[i].Code))
		st.Closes[i].Code = i
	}
	delete(want, float64(st.MessagesAddressed)) // it may decrease, and the others tell it
	for _, f := range gather(t, wsprometheus.CollectorOf(st)) {
		for _, m := range f.Metric {
			delete(want, m.GetCounter().GetValue())
			delete(want, m.GetGauge().GetValue())
			delete(want, float64(m.GetHistogram().GetSampleCount()))
		}
	}
	require.Empty(t, slices.Collect(maps.Values(want)))
}

// TestHistogramsAreThoseOfClientGolang compares with a histogram of client_golang that has
// seen the same durations.
func TestHistogramsAreThoseOfClientGolang(t *testing.T) {
	t.Parallel()
	bounds := []float64{}
	for bound := 1.0 / (1 << 17); bound <= 32; bound *= 2 {
		bounds = append(bounds, bound)
	}
	original := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "x_seconds", Help: "x.", Buckets: bounds, NativeHistogramBucketFactor: 1.19})
	st := websocket.NewHub(nil, websocket.DefaultConfig).Stats()
	h := &st.Handshakes
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 10_000 {
		d := time.Duration(1<<11 + r.Int64N(1<<(1+r.IntN(35))))
		i := 0
		for h.UpperBound(i) < d.Seconds() {
			i++
		}
		h.Buckets[i]++
		h.Count++
		h.Sum += d
		original.Observe(d.Seconds())
	}
	got := gather(t, wsprometheus.CollectorOf(st))["websocket_handshake_duration_seconds"].Metric[0].Histogram
	want := gather(t, original)["x_seconds"].Metric[0].Histogram
	require.InDelta(t, want.GetSampleSum(), got.GetSampleSum(), 1e-3)
	got.SampleSum, got.CreatedTimestamp = want.SampleSum, want.CreatedTimestamp
	require.Equal(t, want.String(), got.String())
}
