// Package prometheus exports the statistics of a hub to Prometheus.
//
//	hub := websocket.NewHub(nil, config)
//	registry := prometheus.NewRegistry()
//	registry.MustRegister(wsprometheus.NewCollector(hub))
//	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
//
// A scrape reads Hub.Stats once. Nothing else has a cost, and publishing does not wait for
// it. docs/monitoring.md lists the metrics. The folder of this package has a dashboard for
// Grafana (grafana.json) and rules for alerts (alerts.yaml).
//
// Names begin with "websocket_", and no label has values that clients choose, so the number
// of series is bounded. Durations are native histograms, and have classic buckets for servers
// that do not collect native ones.
//
// Several hubs in one process need a label each:
//
//	prometheus.WrapRegistererWith(prometheus.Labels{"hub": "chat"}, registry).MustRegister(wsprometheus.NewCollector(hub))
package prometheus

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// NewCollector returns a Collector for the statistics of hub. It may be registered before
// Run, and stays valid after shutdown. It may be collected from any goroutine.
func NewCollector(hub *websocket.Hub) prometheus.Collector { return &collector{hub.Stats} }

type collector struct{ stats func() websocket.Stats }

// single is a metric without labels.
type single struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*websocket.Stats) float64
}

func gauge[N int | int64](name, help string, value func(*websocket.Stats) N) single {
	return single{newDesc(name, help), prometheus.GaugeValue, func(st *websocket.Stats) float64 { return float64(value(st)) }}
}

func counter(name, help string, value func(*websocket.Stats) uint64) single {
	return single{newDesc(name, help), prometheus.CounterValue, func(st *websocket.Stats) float64 { return float64(value(st)) }}
}

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("websocket_"+name, help, labels, nil)
}

// singles are the metrics of every hub without labels.
var singles = []single{
	gauge("connections", "Clients that are connected.", func(st *websocket.Stats) int { return st.ActiveConnections }),
	gauge("hibernating_connections", "Connections that hibernate: they have no goroutine and no buffers.", func(st *websocket.Stats) int64 { return st.Hibernating }),
	gauge("channels", "Channels that have members.", func(st *websocket.Stats) int { return st.TotalChannels }),
	gauge("rooms", "Rooms that have members.", func(st *websocket.Stats) int { return st.TotalRooms }),
	gauge("pending_handshakes", "Handshakes under way.", func(st *websocket.Stats) int { return st.PendingHandshakes }),
	gauge("queued_messages", "Messages that are accepted and not written yet, once per recipient.", func(st *websocket.Stats) int64 { return st.QueuedMessages }),
	gauge("queued_bytes", "Size of the messages that wait for their connections.", func(st *websocket.Stats) int64 { return st.QueuedBytes }),
	gauge("log_bytes", "Size of the messages that are not routed to their recipients yet.", func(st *websocket.Stats) int64 { return st.LogBytes }),
	gauge("held_bytes", "Memory that counts against Config.MemoryBudget.", func(st *websocket.Stats) int64 { return st.HeldBytes }),
	gauge("history_bytes", "Memory that counts against Config.HistoryBudget.", func(st *websocket.Stats) int64 { return st.HistoryBytes }),
	gauge("presence_members", "Memberships of clients of this node in topics with presence.", func(st *websocket.Stats) int64 { return st.PresenceMembers }),
	counter("connections_opened_total", "Connections since the hub was made.", func(st *websocket.Stats) uint64 { return st.TotalConnections }),
	counter("messages_sent_total", "Messages that were written completely, without gap messages.", func(st *websocket.Stats) uint64 { return st.MessagesSent }),
	counter("messages_received_total", "Messages from clients that were decoded.", func(st *websocket.Stats) uint64 { return st.MessagesReceived }),
	counter("messages_ignored_total", "Messages from clients that could not be decoded and were ignored.", func(st *websocket.Stats) uint64 { return st.MessagesIgnored }),
	counter("messages_announced_total", "Dropped messages that were announced to their recipient by a gap message.", func(st *websocket.Stats) uint64 { return st.Announced }),
	counter("messages_unreported_total", "Dropped messages that were not reported to Config.OnDrop.", func(st *websocket.Stats) uint64 { return st.Unreported }),
	counter("sent_bytes_total", "Bytes of WebSocket frames that were written, before TLS.", func(st *websocket.Stats) uint64 { return st.BytesSent }),
	counter("received_bytes_total", "Bytes of WebSocket frames that were read, after TLS.", func(st *websocket.Stats) uint64 { return st.BytesReceived }),
	counter("evictions_total", "Clients that were closed because they were too slow or held too much memory.", func(st *websocket.Stats) uint64 { return st.Evicted }),
	counter("history_evictions_total", "Publications that were removed because Config.HistoryBudget was exceeded.", func(st *websocket.Stats) uint64 { return st.HistoryEvicted }),
	counter("presence_messages_total", "Messages about members that joined or left, once per topic.", func(st *websocket.Stats) uint64 { return st.PresenceMessages }),
}

// brokerSingles are the metrics of a hub with a broker.
var brokerSingles = []single{
	gauge("broker_up", "1 if the hub's broker is up, otherwise 0.", func(st *websocket.Stats) int {
		if st.Broker.State == websocket.BrokerUp {
			return 1
		}
		return 0
	}),
	gauge("broker_nodes", "Nodes that are alive, with this one.", func(st *websocket.Stats) int { return st.Broker.Nodes }),
	gauge("broker_subscriptions", "Topics that this node has requested from the engine.", func(st *websocket.Stats) int { return st.Broker.Subscriptions }),
	gauge("broker_queued_bytes", "Size of the payloads that wait for the engine.", func(st *websocket.Stats) int64 { return st.Broker.QueuedBytes }),
	counter("broker_published_total", "Publications of this node that the engine took.", func(st *websocket.Stats) uint64 { return st.Broker.Published }),
	counter("broker_received_total", "Publications of other nodes that this node accepted.", func(st *websocket.Stats) uint64 { return st.Broker.Received }),
	counter("broker_unsent_total", "Publications of this node that did not reach the engine.", func(st *websocket.Stats) uint64 { return st.Broker.Unsent }),
	counter("broker_healed_total", "Publications that did not arrive and were read from the engine.", func(st *websocket.Stats) uint64 { return st.Broker.Healed }),
	counter("broker_outages_total", "Times that the broker became down or stalled.", func(st *websocket.Stats) uint64 { return st.Broker.Outages }),
}

// Metrics with labels.
var (
	refused       = newDesc("handshakes_refused_total", "Handshakes that were refused.", "reason")
	closed        = newDesc("connections_closed_total", "Connections that have ended, by close code and by the side that closed.", "code", "by")
	dropped       = newDesc("messages_dropped_total", "Messages that were not delivered, once per recipient.", "reason")
	resumed       = newDesc("resumes_total", "Joins with a position: complete, or with a gap.", "result")
	brokerDropped = newDesc("broker_dropped_total", "Payloads of other nodes that were dropped.", "reason")
	handshake     = newDesc("handshake_duration_seconds", "Duration of the handshakes that made a connection, with hooks.")
	callback      = newDesc("callback_duration_seconds", "Duration of the application's callbacks.", "callback")
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, list := range [][]single{singles, brokerSingles} {
		for _, s := range list {
			descs <- s.desc
		}
	}
	for _, d := range []*prometheus.Desc{refused, closed, dropped, resumed, brokerDropped, handshake, callback} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	st := c.stats()
	sendSingles := func(list []single) {
		for _, s := range list {
			if s.kind == prometheus.CounterValue {
				metrics <- prometheus.MustNewConstMetricWithCreatedTimestamp(s.desc, s.kind, s.value(&st), st.Since)
			} else {
				metrics <- prometheus.MustNewConstMetric(s.desc, s.kind, s.value(&st))
			}
		}
	}
	sendCounter := func(desc *prometheus.Desc, n uint64, labels ...string) {
		metrics <- prometheus.MustNewConstMetricWithCreatedTimestamp(desc, prometheus.CounterValue, float64(n), st.Since, labels...)
	}
	sendSingles(singles)
	for reason, n := range st.Refused.All() {
		sendCounter(refused, n, string(reason))
	}
	for _, n := range st.Closes {
		code := "other"
		if n.Code != 0 {
			code = strconv.Itoa(n.Code)
		}
		sendCounter(closed, n.ByHub, code, "hub")
		sendCounter(closed, n.ByPeer, code, "peer")
	}
	for reason, n := range st.Dropped.All() {
		sendCounter(dropped, n, reason)
	}
	sendCounter(resumed, st.Resumes.Complete, "complete")
	sendCounter(resumed, st.Resumes.Gap, "gap")
	metrics <- newHistogram(handshake, &st.Handshakes, st.Since)
	for name, h := range st.Callbacks.All() {
		metrics <- newHistogram(callback, h, st.Since, name)
	}
	if b := st.Broker; b != nil {
		sendSingles(brokerSingles)
		sendCounter(brokerDropped, b.Repeated, "repeated")
		sendCounter(brokerDropped, b.Late, "late")
		sendCounter(brokerDropped, b.Oversized, "oversized")
		sendCounter(brokerDropped, b.Unknown, "unknown")
		sendCounter(brokerDropped, b.Malformed, "malformed")
	}
}

// schema is the schema of native histograms with the buckets of websocket.Histogram.
const schema = 2

// Classic buckets have the bounds 2^n seconds for these n, of which every fourth native
// bucket ends with one.
const (
	firstClassic = -17 // 7.6 microseconds
	lastClassic  = 5   // 32 seconds
)

// histogram is a native histogram with classic buckets.
type histogram struct {
	prometheus.Metric
	classic []*dto.Bucket
}

func newHistogram(desc *prometheus.Desc, h *websocket.Histogram, since time.Time, labels ...string) histogram {
	native := make(map[int]int64)
	classic := make([]*dto.Bucket, 0, lastClassic-firstClassic+1)
	total := uint64(0)
	for i, n := range h.Buckets {
		if n > 0 {
			native[i+websocket.HistogramOffset] = int64(n)
		}
		total += n
		if power := i + websocket.HistogramOffset; power%4 == 0 && power >= 4*firstClassic && power <= 4*lastClassic {
			bound, sum := h.UpperBound(i), total
			classic = append(classic, &dto.Bucket{UpperBound: &bound, CumulativeCount: &sum})
		}
	}
	m := prometheus.MustNewConstNativeHistogram(desc, h.Count, h.Sum.Seconds(), native, nil, 0, schema, prometheus.DefNativeHistogramZeroThreshold, since, labels...)
	return histogram{m, classic}
}

// Write implements prometheus.Metric.
func (h histogram) Write(out *dto.Metric) error {
	if err := h.Metric.Write(out); err != nil {
		return err
	}
	out.Histogram.Bucket = h.classic
	return nil
}
