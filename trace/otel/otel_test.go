package otel_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/maoxiaoyue/hypgo-websocket/client"
	"github.com/maoxiaoyue/hypgo-websocket/trace/otel"
)

// recorder keeps the spans that have ended, in that order.
func recorder(t *testing.T) (*otel.Tracer, oteltrace.Tracer, *tracetest.InMemoryExporter) {
	spans := tracetest.NewInMemoryExporter()
	provider := trace.NewTracerProvider(trace.WithSyncer(spans))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	return otel.New(otel.Options{TracerProvider: provider}), provider.Tracer("test"), spans
}

// start runs a hub, whose clients join channel news.
func start(t *testing.T, engine *brokertest.Memory, prepare func(*websocket.Hub)) (hub *websocket.Hub, url string) {
	config := websocket.DefaultConfig
	if engine != nil {
		config.Broker = engine.Broker()
	}
	hub = websocket.NewHub(nil, config)
	prepare(hub)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- hub.Run(ctx) }() // ends with the test
	server := httptest.NewServer(hub.Handler())
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
		server.Close()
	})
	require.NoError(t, hub.BrokerReady(t.Context()))
	return hub, "ws" + strings.TrimPrefix(server.URL, "http")
}

func joinNews(c *websocket.Client) { _ = c.Subscribe("news") }

func connect(t *testing.T, url string) *gorilla.Conn {
	c, response, err := gorilla.DefaultDialer.Dial(url, nil)
	require.NoError(t, err)
	_ = response.Body.Close()
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func read(t *testing.T, c *gorilla.Conn) *websocket.Message {
	_, b, err := c.ReadMessage()
	require.NoError(t, err)
	m := new(websocket.Message)
	require.NoError(t, json.Unmarshal(b, m))
	return m
}

func attributesOf(span tracetest.SpanStub) map[string]any {
	all := map[string]any{}
	for _, a := range span.Attributes {
		all[string(a.Key)] = a.Value.AsInterface()
	}
	return all
}

// A publication on one node links its publisher to the handlers of the recipients, through
// the engine: the client on the other node answers with the context that it received.
func TestTraceAcrossNodes(t *testing.T) {
	tracer, app, spans := recorder(t)
	engine := brokertest.NewMemory(0)
	publisher, _ := start(t, engine, func(*websocket.Hub) {})
	handled := make(chan string, 2)
	onMessage := tracer.OnMessage(func(ctx context.Context, c *websocket.Client, m *websocket.Message) {
		require.NotNil(t, ctx.Done(), "it is the client's")
		handled <- m.Type
	})
	other, url := start(t, engine, func(h *websocket.Hub) { h.SetCallbacks(joinNews, nil, onMessage) })
	peers := []*gorilla.Conn{connect(t, url), connect(t, url)}
	for _, p := range peers {
		require.NoError(t, p.WriteJSON(&websocket.Message{Type: "hub:ping", ID: "joined"}))
		read(t, p)
	}
	require.NoError(t, other.BrokerReady(t.Context()))

	ctx, request := app.Start(context.Background(), "request")
	m := &websocket.Message{Data: []byte(`"hello"`)}
	require.NoError(t, tracer.Publish(ctx, "news", m, publisher.PublishToChannelContext))
	require.Empty(t, m.Trace, "the caller's message is not changed")
	for _, p := range peers {
		got := read(t, p)
		require.NoError(t, p.WriteJSON(&websocket.Message{Type: "seen", Channel: "news", ID: "7", Trace: got.Trace}))
		require.Equal(t, "seen", <-handled)
		require.NoError(t, p.WriteJSON(&websocket.Message{Type: "hub:ping", ID: "ended"})) // the reply comes after the span
		read(t, p)
	}
	request.End()

	all := spans.GetSpans()
	require.Len(t, all, 4)
	publish, parent := all[0], all[3]
	require.Equal(t, "publish", publish.Name)
	require.Equal(t, oteltrace.SpanKindProducer, publish.SpanKind)
	require.Equal(t, parent.SpanContext.SpanID(), publish.Parent.SpanID())
	require.Equal(t, map[string]any{
		"messaging.system": "hypgo_websocket", "messaging.operation.name": "publish", "messaging.operation.type": "send",
		"messaging.destination.name": "news", "messaging.message.body.size": int64(7),
	}, attributesOf(publish))
	for _, process := range all[1:3] {
		require.Equal(t, "process", process.Name)
		require.Equal(t, oteltrace.SpanKindConsumer, process.SpanKind)
		require.False(t, process.Parent.IsValid(), "not a child: there may be many recipients")
		require.NotEqual(t, publish.SpanContext.TraceID(), process.SpanContext.TraceID())
		require.Len(t, process.Links, 1)
		require.Equal(t, publish.SpanContext.TraceID(), process.Links[0].SpanContext.TraceID())
		require.Equal(t, publish.SpanContext.SpanID(), process.Links[0].SpanContext.SpanID())
		require.Equal(t, "process", attributesOf(process)["messaging.operation.type"])
		require.Equal(t, "7", attributesOf(process)["messaging.message.id"])
		require.NotEmpty(t, attributesOf(process)["messaging.client.id"])
	}
}

// The Go client's publication is linked to the handler of the hub, and a request without a
// trace has no link.
func TestTraceOfRequests(t *testing.T) {
	tracer, _, spans := recorder(t)
	handled := make(chan struct{}, 1)
	_, url := start(t, nil, func(h *websocket.Hub) {
		h.SetCallbacks(nil, nil, tracer.OnMessage(func(context.Context, *websocket.Client, *websocket.Message) { handled <- struct{}{} }))
		h.Handle("refuse", tracer.Handler("refuse", func(context.Context, *websocket.Client, *websocket.Message) (any, error) {
			return nil, errors.New("a fault")
		}))
	})
	c, err := client.Dial(t.Context(), url, client.Options{})
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.NoError(t, tracer.Publish(t.Context(), "news", &websocket.Message{}, func(ctx context.Context, channel string, m *websocket.Message) error {
		return c.Publish(ctx, channel, m.Data, client.Trace(m.Trace))
	}))
	<-handled
	_, err = c.Request(t.Context(), "refuse", nil)
	require.Error(t, err)

	byName := map[string]tracetest.SpanStub{}
	for _, span := range spans.GetSpans() {
		byName[span.Name] = span
	}
	require.Equal(t, byName["publish"].SpanContext.SpanID(), byName["process"].Links[0].SpanContext.SpanID())
	refused := byName["process refuse"]
	require.Empty(t, refused.Links)
	require.Equal(t, trace.Status{Code: codes.Error, Description: "a fault"}, refused.Status)
	require.Equal(t, "*errors.errorString", attributesOf(refused)["error.type"])
}

func TestPublishHasTheError(t *testing.T) {
	tracer, _, spans := recorder(t)
	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	err := tracer.Publish(t.Context(), "", &websocket.Message{}, hub.PublishToRoomContext)
	require.ErrorIs(t, err, websocket.ErrInvalidName)
	require.ErrorIs(t, tracer.Publish(t.Context(), "x", nil, hub.PublishToRoomContext), websocket.ErrNilMessage)
	all := spans.GetSpans()
	require.Len(t, all, 1)
	require.Equal(t, codes.Error, all[0].Status.Code)
	require.Contains(t, all[0].Attributes, attribute.String("messaging.operation.name", "publish"))
}

func TestAttributesAreBounded(t *testing.T) {
	tracer, _, spans := recorder(t)
	m := &websocket.Message{ID: strings.Repeat("x", 254) + "é", ClientID: "a\xffb"}
	_, span := tracer.Process(t.Context(), "process", m)
	span.End()
	all := attributesOf(spans.GetSpans()[0])
	require.Equal(t, strings.Repeat("x", 254), all["messaging.message.id"])
	require.Equal(t, "ab", all["messaging.client.id"])
}

func TestInjectAndExtract(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	state := func(n int) string { return "a=" + strings.Repeat("x", n-2) }
	for given, want := range map[string]string{
		"":                        "",
		parent:                    parent,
		parent + " a=b,c=d":       parent + " a=b,c=d",
		parent + " " + state(256): parent + " " + state(256),
		parent + " " + state(257): parent,
		parent + " ===":           parent,
		"malformed":               "",
		"malformed a=b":           "",
	} {
		ctx := otel.Extract(context.Background(), &websocket.Message{Trace: given})
		require.Equal(t, want != "", oteltrace.SpanContextFromContext(ctx).IsValid(), given)
		require.Equal(t, want != "", oteltrace.SpanContextFromContext(ctx).IsRemote(), given)
		m := &websocket.Message{Trace: "replaced"}
		otel.Inject(ctx, m)
		require.Equal(t, want, m.Trace)
	}
}

func BenchmarkUnsampled(b *testing.B) {
	provider := trace.NewTracerProvider(trace.WithSampler(trace.NeverSample()))
	tracer := otel.New(otel.Options{TracerProvider: provider})
	m := &websocket.Message{Data: []byte(`1`)}
	for b.Loop() {
		_ = tracer.Publish(b.Context(), "news", m, func(context.Context, string, *websocket.Message) error { return nil })
	}
}
