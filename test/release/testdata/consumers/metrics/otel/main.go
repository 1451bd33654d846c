// A hub whose statistics are collected once.
package main

import (
	"context"
	"fmt"
	"log"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	wsotel "github.com/maoxiaoyue/hypgo-websocket/metrics/otel"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

func main() {
	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	reader := sdkmetric.NewManualReader(sdkmetric.WithProducer(wsotel.NewProducer(hub)))
	if _, err := wsotel.Register(hub, sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))); err != nil {
		log.Fatal(err)
	}
	var metrics metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &metrics); err != nil || len(metrics.ScopeMetrics) == 0 {
		log.Fatalf("%d scopes: %v", len(metrics.ScopeMetrics), err)
	}
	fmt.Println("collected the metrics of a hub")
}
