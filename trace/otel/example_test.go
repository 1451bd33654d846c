package otel_test

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/trace/otel"
)

func Example() {
	spans := tracetest.NewInMemoryExporter() // an exporter of OTLP in a program
	provider := trace.NewTracerProvider(trace.WithSyncer(spans))
	tracer := otel.New(otel.Options{TracerProvider: provider})

	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	hub.SetCallbacks(nil, nil, tracer.OnMessage(func(ctx context.Context, _ *websocket.Client, m *websocket.Message) {
		_ = ctx // has the span; m.Trace has the client's context
	}))

	_ = tracer.Publish(context.Background(), "news", &websocket.Message{Data: []byte(`"hello"`)}, hub.PublishToChannelContext)
	for _, span := range spans.GetSpans() {
		fmt.Println(span.Name, span.SpanKind)
	}
	// Output: publish producer
}
