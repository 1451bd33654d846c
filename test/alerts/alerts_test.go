// Package alerts checks the dashboard and the alerts of metrics/prometheus against the
// metrics of a running hub, with the parser and engine of Prometheus.
package alerts

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	wsprometheus "github.com/maoxiaoyue/hypgo-websocket/metrics/prometheus"
)

const folder = "../../metrics/prometheus/"

var promQL = parser.NewParser(parser.Options{})

// liveSeries returns the series of a running hub with a broker and a client. Histograms have
// the names of native and of classic ones.
func liveSeries(t *testing.T) []labels.Labels {
	t.Helper()
	config := websocket.DefaultConfig
	config.Broker = brokertest.NewMemory(0).Broker()
	hub := websocket.NewHub(nil, config)
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(context.Background()) }() // ends with the hub
	server := httptest.NewServer(hub.Handler())
	defer server.Close()
	peer, _, err := (&websocket.Dialer{}).Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	require.NoError(t, err)
	defer peer.Close()
	require.NoError(t, hub.BrokerReady(t.Context()))
	registry := prometheus.NewRegistry()
	require.NoError(t, registry.Register(wsprometheus.NewCollector(hub)))
	families, err := registry.Gather()
	require.NoError(t, err)
	require.NoError(t, hub.Shutdown(t.Context()))
	require.NoError(t, <-ran)
	var series []labels.Labels
	for _, family := range families {
		for _, m := range family.Metric {
			names := []string{family.GetName()}
			if m.Histogram != nil {
				names = append(names, family.GetName()+"_bucket", family.GetName()+"_count", family.GetName()+"_sum")
			}
			for _, name := range names {
				b := labels.NewBuilder(labels.EmptyLabels())
				b.Set(model.MetricNameLabel, name)
				for _, label := range m.Label {
					b.Set(label.GetName(), label.GetValue())
				}
				series = append(series, b.Labels())
			}
		}
	}
	require.NotEmpty(t, series)
	return series
}

// requireSeries fails if a selector of an expression matches no series. The labels of targets
// are not checked.
func requireSeries(t *testing.T, series []labels.Labels, expr string) (names []string) {
	t.Helper()
	parsed, err := promQL.ParseExpr(expr)
	require.NoError(t, err, expr)
	selectors := parser.ExtractSelectors(parsed)
	require.NotEmpty(t, selectors, expr)
	for _, selector := range selectors {
		matches := func(s labels.Labels) bool {
			for _, m := range selector {
				if m.Name != "job" && m.Name != "instance" && !m.Matches(s.Get(m.Name)) {
					return false
				}
			}
			return true
		}
		i := slices.IndexFunc(series, matches)
		require.GreaterOrEqual(t, i, 0, "no series for %v in %s", selector, expr)
		names = append(names, series[i].Get(model.MetricNameLabel))
	}
	return names
}

// rules returns the alerts.
func rules(t *testing.T) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile(folder+"alerts.yaml", false, model.UTF8Validation, promQL, nil)
	require.Empty(t, errs)
	require.Len(t, groups.Groups, 1)
	return groups.Groups[0].Rules
}

func TestAlerts(t *testing.T) {
	series := liveSeries(t)
	for _, rule := range rules(t) {
		require.NotEmpty(t, rule.Alert)
		require.Contains(t, []string{"critical", "warning", "info"}, rule.Labels["severity"], rule.Alert)
		require.NotEmpty(t, rule.Annotations["summary"], rule.Alert)
		require.NotEmpty(t, rule.Annotations["description"], rule.Alert)
		requireSeries(t, series, rule.Expr)
	}
}

// dashboard has the fields of grafana.json that the test looks at.
type dashboard struct {
	Title      string
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []struct {
		ID          int
		Type, Title string
		Description string
		GridPos     struct{ H, W, X, Y int }
		Targets     []struct{ RefID, Expr, LegendFormat string }
	}
}

func TestDashboard(t *testing.T) {
	series := liveSeries(t)
	text, err := os.ReadFile(folder + "grafana.json")
	require.NoError(t, err)
	var d dashboard
	require.NoError(t, json.Unmarshal(text, &d))
	variables := strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$instance", ".*")
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			selector, _, _ := strings.Cut(strings.TrimPrefix(v.Definition, "label_values("), ", ")
			requireSeries(t, series, variables.Replace(selector))
		}
	}
	ids, covered := map[int]bool{}, map[[2]int]string{}
	used := map[string]bool{}
	for _, p := range d.Panels {
		require.False(t, ids[p.ID], "two panels have the ID %d", p.ID)
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				require.Less(t, at[0], 24, p.Title)
				require.Empty(t, covered[at], "%s covers another panel", p.Title)
				covered[at] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		require.NotEmpty(t, p.Description, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			for _, name := range requireSeries(t, series, variables.Replace(target.Expr)) {
				used[name] = true
			}
		}
	}
	for _, s := range series {
		name := s.Get(model.MetricNameLabel)
		if strings.HasSuffix(name, "_bucket") || strings.HasSuffix(name, "_count") || strings.HasSuffix(name, "_sum") {
			continue
		}
		require.True(t, used[name], "no panel shows %s", name)
	}
}

// healthy are the series of a job without problems.
const healthy = `load 1m
	websocket_broker_up{job="chat",instance="a"} 1x60
	websocket_broker_nodes{job="chat",instance="a"} 2x60
	websocket_broker_nodes{job="chat",instance="b"} 2x60
	websocket_broker_unsent_total{job="chat",instance="a"} 3x60
	websocket_handshakes_refused_total{job="chat",instance="a",reason="limit"} 5x60
	websocket_handshakes_refused_total{job="chat",instance="a",reason="origin"} 0+1x60
	websocket_connections_opened_total{job="chat",instance="a"} 0+100x60
	websocket_connections_closed_total{job="chat",instance="a",code="1011",by="hub"} 2x60
	websocket_connections_closed_total{job="chat",instance="a",code="1000",by="peer"} 0+90x60
	websocket_connections{job="chat",instance="a"} 1000x60
	websocket_evictions_total{job="chat",instance="a"} 0+0.1x60
	websocket_messages_sent_total{job="chat",instance="a"} 0+10000x60
	websocket_messages_dropped_total{job="chat",instance="a",reason="slow_consumer"} 0+1x60
	websocket_messages_dropped_total{job="chat",instance="a",reason="disconnected"} 0+1000x60
	websocket_log_bytes{job="chat",instance="a"} 100000x60
	websocket_handshake_duration_seconds_bucket{job="chat",instance="a",le="1"} 0+100x60
	websocket_handshake_duration_seconds_bucket{job="chat",instance="a",le="4"} 0+100x60
	websocket_handshake_duration_seconds_bucket{job="chat",instance="a",le="+Inf"} 0+100x60
	websocket_callback_duration_seconds{job="chat",instance="a",callback="on_message"} {{schema:2 sum:1 count:100 offset:-20 buckets:[100]}}+{{schema:2 sum:1 count:100 offset:-20 buckets:[100]}}x60
	websocket_resumes_total{job="chat",instance="a",result="complete"} 0+100x60
	websocket_resumes_total{job="chat",instance="a",result="gap"} 0+1x60
`

// TestAlertsFire evaluates each alert with healthy series, and with one that is not.
func TestAlertsFire(t *testing.T) {
	bad := map[string]string{
		"WebSocketBrokerDown":         `websocket_broker_up{job="chat",instance="b"} 0x60`,
		"WebSocketPublicationsUnsent": `websocket_broker_unsent_total{job="chat",instance="b"} 0+1x60`,
		"WebSocketNodesDisagree":      `websocket_broker_nodes{job="chat",instance="c"} 1x60`,
		"WebSocketHubRefusesClients":  `websocket_handshakes_refused_total{job="chat",instance="b",reason="memory"} 0+1x60`,
		"WebSocketOriginsRefused": `websocket_handshakes_refused_total{job="chat",instance="b",reason="origin"} 0+1x60
			websocket_connections_opened_total{job="chat",instance="b"} 0x60`,
		"WebSocketCallbackPanics":    `websocket_connections_closed_total{job="chat",instance="b",code="1011",by="hub"} 0+1x60`,
		"WebSocketSlowClients":       "websocket_evictions_total{job=\"chat\",instance=\"b\"} 0+10x60\nwebsocket_connections{job=\"chat\",instance=\"b\"} 1000x60",
		"WebSocketMessagesDropped":   `websocket_messages_dropped_total{job="chat",instance="a",reason="codec"} 0+100x60`,
		"WebSocketHubOverloaded":     `websocket_log_bytes{job="chat",instance="b"} 60000000x60`,
		"WebSocketHandshakesSlow":    `websocket_handshake_duration_seconds{job="chat",instance="b"} {{schema:2 sum:1 count:100 offset:10 buckets:[100]}}+{{schema:2 sum:1 count:100 offset:10 buckets:[100]}}x60`,
		"WebSocketCallbacksSlow":     "websocket_callback_duration_seconds_bucket{job=\"chat\",instance=\"b\",callback=\"authorize\",le=\"1\"} 0x60\nwebsocket_callback_duration_seconds_bucket{job=\"chat\",instance=\"b\",callback=\"authorize\",le=\"4\"} 0+10x60\nwebsocket_callback_duration_seconds_bucket{job=\"chat\",instance=\"b\",callback=\"authorize\",le=\"+Inf\"} 0+10x60",
		"WebSocketResumesIncomplete": `websocket_resumes_total{job="chat",instance="b",result="gap"} 0+50x60`,
	}
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	firing := func(load, expr string) promql.Vector {
		storage := promqltest.LoadedStorage(t, load)
		query, err := engine.NewInstantQuery(t.Context(), storage, nil, expr, time.Unix(0, 0).Add(time.Hour))
		require.NoError(t, err)
		defer query.Close()
		result := query.Exec(t.Context())
		vector, err := result.Vector()
		require.NoError(t, err)
		return slices.Clone(vector)
	}
	for _, rule := range rules(t) {
		require.Empty(t, firing(healthy, rule.Expr), rule.Alert)
		require.Contains(t, bad, rule.Alert)
		require.Len(t, firing(healthy+"\t"+bad[rule.Alert]+"\n", rule.Expr), 1, rule.Alert)
		delete(bad, rule.Alert)
	}
	require.Empty(t, bad, "no such alert")
}

// TestMetricsAreDocumented looks for each metric in docs/monitoring.md.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/monitoring.md")
	require.NoError(t, err)
	for _, s := range liveSeries(t) {
		name := s.Get(model.MetricNameLabel)
		if !strings.HasSuffix(name, "_bucket") && !strings.HasSuffix(name, "_count") && !strings.HasSuffix(name, "_sum") {
			require.Contains(t, string(text), "`"+name+"`")
		}
	}
	for _, rule := range rules(t) {
		require.Contains(t, string(text), "`"+rule.Alert+"`")
	}
}
