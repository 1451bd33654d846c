package prometheus

import (
	"github.com/prometheus/client_golang/prometheus"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// CollectorOf returns a Collector for given statistics.
func CollectorOf(st websocket.Stats) prometheus.Collector {
	return &collector{func() websocket.Stats { return st }}
}
