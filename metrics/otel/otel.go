// Package otel exports the statistics of a hub to OpenTelemetry.
//
//	hub := websocket.NewHub(nil, config)
//	reader := sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithProducer(wsotel.NewProducer(hub)))
//	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
//	registration, err := wsotel.Register(hub, provider)
//
// Register makes observable counters and up-down counters. The API of OpenTelemetry has no
// observable histograms, so the durations come from a Producer of the SDK, as exponential
// histograms with the hub's own buckets. Each collection reads Hub.Stats once for either.
// Nothing else has a cost, and publishing does not wait for it.
//
// Names begin with "websocket.hub.", and no attribute has values that clients choose, so the
// number of series is bounded. docs/monitoring.md lists the metrics.
package otel

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// scope is the name of the instrumentation.
const scope = "github.com/maoxiaoyue/hypgo-websocket/metrics/otel"

// Keys of attributes.
const (
	closeCodeKey = attribute.Key("websocket.close.code")
	closeByKey   = attribute.Key("websocket.close.by")
	reasonKey    = attribute.Key("websocket.reason")
	resultKey    = attribute.Key("websocket.resume.result")
	callbackKey  = attribute.Key("websocket.callback")
	errorTypeKey = attribute.Key("error.type")
)

// figure is one value of an instrument.
type figure struct {
	value      int64
	attributes attribute.Set
}

func single[N int | int64 | uint64](value N) []figure { return []figure{{value: int64(value)}} }

func of(value uint64, attributes ...attribute.KeyValue) figure {
	return figure{int64(value), attribute.NewSet(attributes...)}
}

// instrument describes an observable instrument. Its values are of Stats.
type instrument struct {
	name, unit, description string
	upDown                  bool
	broker                  bool // values needs Stats.Broker
	values                  func(*websocket.Stats) []figure
}

var instruments = []instrument{
	{name: "connections", unit: "{connection}", upDown: true, description: "Clients that are connected.", values: func(st *websocket.Stats) []figure { return single(st.ActiveConnections) }},
	{name: "hibernating_connections", unit: "{connection}", upDown: true, description: "Connections that hibernate: they have no goroutine and no buffers.", values: func(st *websocket.Stats) []figure { return single(st.Hibernating) }},
	{name: "channels", unit: "{channel}", upDown: true, description: "Channels that have members.", values: func(st *websocket.Stats) []figure { return single(st.TotalChannels) }},
	{name: "rooms", unit: "{room}", upDown: true, description: "Rooms that have members.", values: func(st *websocket.Stats) []figure { return single(st.TotalRooms) }},
	{name: "active_handshakes", unit: "{handshake}", upDown: true, description: "Handshakes under way.", values: func(st *websocket.Stats) []figure { return single(st.PendingHandshakes) }},
	{name: "queue.messages", unit: "{message}", upDown: true, description: "Messages that are accepted and not written yet, once per recipient.", values: func(st *websocket.Stats) []figure { return single(st.QueuedMessages) }},
	{name: "queue.size", unit: "By", upDown: true, description: "Size of the messages that wait for their connections.", values: func(st *websocket.Stats) []figure { return single(st.QueuedBytes) }},
	{name: "log.size", unit: "By", upDown: true, description: "Size of the messages that are not routed to their recipients yet.", values: func(st *websocket.Stats) []figure { return single(st.LogBytes) }},
	{name: "memory.usage", unit: "By", upDown: true, description: "Memory that counts against Config.MemoryBudget.", values: func(st *websocket.Stats) []figure { return single(st.HeldBytes) }},
	{name: "history.usage", unit: "By", upDown: true, description: "Memory that counts against Config.HistoryBudget.", values: func(st *websocket.Stats) []figure { return single(st.HistoryBytes) }},
	{name: "presence.members", unit: "{member}", upDown: true, description: "Memberships of clients of this node in topics with presence.", values: func(st *websocket.Stats) []figure { return single(st.PresenceMembers) }},
	{name: "connections.opened", unit: "{connection}", description: "Connections since the hub was made.", values: func(st *websocket.Stats) []figure { return single(st.TotalConnections) }},
	{name: "connections.closed", unit: "{connection}", description: "Connections that have ended. Code 0 stands for all codes that are not counted apart.", values: closes},
	{name: "handshakes.refused", unit: "{handshake}", description: "Handshakes that were refused.", values: refusals},
	{name: "messages.sent", unit: "{message}", description: "Messages that were written completely, without gap messages.", values: func(st *websocket.Stats) []figure { return single(st.MessagesSent) }},
	{name: "messages.received", unit: "{message}", description: "Messages from clients that were decoded.", values: func(st *websocket.Stats) []figure { return single(st.MessagesReceived) }},
	{name: "messages.ignored", unit: "{message}", description: "Messages from clients that could not be decoded and were ignored.", values: func(st *websocket.Stats) []figure { return single(st.MessagesIgnored) }},
	{name: "messages.dropped", unit: "{message}", description: "Messages that were not delivered, once per recipient.", values: drops},
	{name: "messages.announced", unit: "{message}", description: "Dropped messages that were announced to their recipient by a gap message.", values: func(st *websocket.Stats) []figure { return single(st.Announced) }},
	{name: "messages.unreported", unit: "{message}", description: "Dropped messages that were not reported to Config.OnDrop.", values: func(st *websocket.Stats) []figure { return single(st.Unreported) }},
	{name: "io.sent", unit: "By", description: "Bytes of WebSocket frames that were written, before TLS.", values: func(st *websocket.Stats) []figure { return single(st.BytesSent) }},
	{name: "io.received", unit: "By", description: "Bytes of WebSocket frames that were read, after TLS.", values: func(st *websocket.Stats) []figure { return single(st.BytesReceived) }},
	{name: "evictions", unit: "{connection}", description: "Clients that were closed because they were too slow or held too much memory.", values: func(st *websocket.Stats) []figure { return single(st.Evicted) }},
	{name: "history.evictions", unit: "{message}", description: "Publications that were removed because Config.HistoryBudget was exceeded.", values: func(st *websocket.Stats) []figure { return single(st.HistoryEvicted) }},
	{name: "resumes", unit: "{join}", description: "Joins with a position: complete, or with a gap.", values: func(st *websocket.Stats) []figure {
		return []figure{of(st.Resumes.Complete, resultKey.String("complete")), of(st.Resumes.Gap, resultKey.String("gap"))}
	}},
	{name: "presence.messages", unit: "{message}", description: "Messages about members that joined or left, once per topic.", values: func(st *websocket.Stats) []figure { return single(st.PresenceMessages) }},
	{name: "broker.up", unit: "1", upDown: true, broker: true, description: "1 if the hub's broker is up, otherwise 0.", values: func(st *websocket.Stats) []figure {
		if st.Broker.State == websocket.BrokerUp {
			return single(1)
		}
		return single(0)
	}},
	{name: "broker.nodes", unit: "{node}", upDown: true, broker: true, description: "Nodes that are alive, with this one.", values: func(st *websocket.Stats) []figure { return single(st.Broker.Nodes) }},
	{name: "broker.subscriptions", unit: "{topic}", upDown: true, broker: true, description: "Topics that this node has requested from the engine.", values: func(st *websocket.Stats) []figure { return single(st.Broker.Subscriptions) }},
	{name: "broker.queue.size", unit: "By", upDown: true, broker: true, description: "Size of the payloads that wait for the engine.", values: func(st *websocket.Stats) []figure { return single(st.Broker.QueuedBytes) }},
	{name: "broker.published", unit: "{message}", broker: true, description: "Publications of this node that the engine took.", values: func(st *websocket.Stats) []figure { return single(st.Broker.Published) }},
	{name: "broker.received", unit: "{message}", broker: true, description: "Publications of other nodes that this node accepted.", values: func(st *websocket.Stats) []figure { return single(st.Broker.Received) }},
	{name: "broker.unsent", unit: "{message}", broker: true, description: "Publications of this node that did not reach the engine.", values: func(st *websocket.Stats) []figure { return single(st.Broker.Unsent) }},
	{name: "broker.healed", unit: "{message}", broker: true, description: "Publications that did not arrive and were read from the engine.", values: func(st *websocket.Stats) []figure { return single(st.Broker.Healed) }},
	{name: "broker.dropped", unit: "{message}", broker: true, description: "Payloads of other nodes that were dropped.", values: brokerDrops},
	{name: "broker.outages", unit: "{outage}", broker: true, description: "Times that the broker became down or stalled.", values: func(st *websocket.Stats) []figure { return single(st.Broker.Outages) }},
}

func closes(st *websocket.Stats) (figures []figure) {
	for _, n := range st.Closes {
		code := closeCodeKey.Int(n.Code)
		figures = append(figures, of(n.ByHub, code, closeByKey.String("hub")), of(n.ByPeer, code, closeByKey.String("peer")))
	}
	return figures
}

func refusals(st *websocket.Stats) (figures []figure) {
	for reason, n := range st.Refused.All() {
		figures = append(figures, of(n, errorTypeKey.String(string(reason))))
	}
	return figures
}

func drops(st *websocket.Stats) (figures []figure) {
	for reason, n := range st.Dropped.All() {
		figures = append(figures, of(n, reasonKey.String(reason)))
	}
	return figures
}

func brokerDrops(st *websocket.Stats) []figure {
	b := st.Broker
	return []figure{
		of(b.Repeated, reasonKey.String("repeated")), of(b.Late, reasonKey.String("late")), of(b.Oversized, reasonKey.String("oversized")),
		of(b.Unknown, reasonKey.String("unknown")), of(b.Malformed, reasonKey.String("malformed")),
	}
}

// Register makes the instruments for the statistics of hub, except for the durations: see
// NewProducer. It may be called before Run. The instruments stay valid after shutdown;
// Unregister of the result ends them. Errors are those of the provider's Meter.
func Register(hub *websocket.Hub, provider metric.MeterProvider) (metric.Registration, error) {
	return register(hub.Stats, provider)
}

func register(stats func() websocket.Stats, provider metric.MeterProvider) (metric.Registration, error) {
	meter := provider.Meter(scope)
	observables := make([]metric.Observable, len(instruments))
	all := make([]metric.Int64Observable, len(instruments))
	var failed error
	for i, in := range instruments {
		var err error
		if in.upDown {
			all[i], err = meter.Int64ObservableUpDownCounter(prefix+in.name, metric.WithUnit(in.unit), metric.WithDescription(in.description))
		} else {
			all[i], err = meter.Int64ObservableCounter(prefix+in.name, metric.WithUnit(in.unit), metric.WithDescription(in.description))
		}
		observables[i] = all[i]
		failed = errors.Join(failed, err)
	}
	if failed != nil {
		return nil, failed
	}
	return meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		st := stats()
		for i, in := range instruments {
			if in.broker && st.Broker == nil {
				continue
			}
			for _, f := range in.values(&st) {
				o.ObserveInt64(all[i], f.value, metric.WithAttributeSet(f.attributes))
			}
		}
		return nil
	}, observables...)
}

const prefix = "websocket.hub."

// NewProducer returns a Producer of the durations of handshakes and callbacks, for the option
// WithProducer of a reader. They are cumulative since NewHub. It may be used before Run and
// after shutdown, from any goroutine.
func NewProducer(hub *websocket.Hub) sdkmetric.Producer { return producer{hub.Stats} }

type producer struct{ stats func() websocket.Stats }

// Produce implements sdkmetric.Producer.
func (p producer) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	st, now := p.stats(), time.Now()
	var callbacks []metricdata.ExponentialHistogramDataPoint[float64]
	for name, h := range st.Callbacks.All() {
		callbacks = append(callbacks, dataPoint(h, st.Since, now, callbackKey.String(name)))
	}
	return []metricdata.ScopeMetrics{{
		Scope: instrumentation.Scope{Name: scope},
		Metrics: []metricdata.Metrics{
			durations("handshake.duration", "Duration of the handshakes that made a connection, with hooks.", dataPoint(&st.Handshakes, st.Since, now)),
			durations("callback.duration", "Duration of the application's callbacks.", callbacks...),
		},
	}}, nil
}

func durations(name, description string, points ...metricdata.ExponentialHistogramDataPoint[float64]) metricdata.Metrics {
	return metricdata.Metrics{
		Name: prefix + name, Description: description, Unit: "s",
		Data: metricdata.ExponentialHistogram[float64]{Temporality: metricdata.CumulativeTemporality, DataPoints: points},
	}
}

// scale is the scale of exponential histograms with the buckets of websocket.Histogram.
const scale = 2

func dataPoint(h *websocket.Histogram, since, now time.Time, attributes ...attribute.KeyValue) metricdata.ExponentialHistogramDataPoint[float64] {
	first, end := 0, len(h.Buckets)
	for end > 0 && h.Buckets[end-1] == 0 {
		end--
	}
	for first < end && h.Buckets[first] == 0 {
		first++
	}
	return metricdata.ExponentialHistogramDataPoint[float64]{
		Attributes: attribute.NewSet(attributes...), StartTime: since, Time: now,
		Count: h.Count, Sum: h.Sum.Seconds(), Scale: scale,
		PositiveBucket: metricdata.ExponentialBucket{
			Offset: int32(first + websocket.HistogramOffset - 1), // the bucket of index i begins behind 2^(i/4)
			Counts: h.Buckets[first:end:end],
		},
	}
}
