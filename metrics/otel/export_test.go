package otel

import (
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// RegisterStats is Register for given statistics.
func RegisterStats(st websocket.Stats, provider metric.MeterProvider) (metric.Registration, error) {
	return register(func() websocket.Stats { return st }, provider)
}

// ProducerOf is NewProducer for given statistics.
func ProducerOf(st websocket.Stats) sdkmetric.Producer {
	return producer{func() websocket.Stats { return st }}
}
