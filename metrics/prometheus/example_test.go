package prometheus_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	wsprometheus "github.com/maoxiaoyue/hypgo-websocket/metrics/prometheus"
)

func ExampleNewCollector() {
	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	registry := prometheus.NewRegistry()
	registry.MustRegister(wsprometheus.NewCollector(hub))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))

	response := httptest.NewRecorder()
	mux.ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(response.Body.String()) {
		if strings.HasPrefix(line, "websocket_connections ") {
			fmt.Print(line)
		}
	}
	// Output: websocket_connections 0
}
