package otel_test

import (
	"context"
	"fmt"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	wsotel "github.com/maoxiaoyue/hypgo-websocket/metrics/otel"
)

func Example() {
	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	reader := sdkmetric.NewManualReader(sdkmetric.WithProducer(wsotel.NewProducer(hub)))
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	registration, err := wsotel.Register(hub, provider)
	if err != nil {
		panic(err)
	}
	defer func() { _ = registration.Unregister() }()

	var metrics metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &metrics); err != nil {
		panic(err)
	}
	for _, scope := range metrics.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name == "websocket.hub.connections" || m.Name == "websocket.hub.handshake.duration" {
				fmt.Println(m.Name, m.Unit)
			}
		}
	}
	// Output:
	// websocket.hub.connections {connection}
	// websocket.hub.handshake.duration s
}
