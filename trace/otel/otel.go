// Package otel traces the messages of a hub with OpenTelemetry.
//
// A message carries the context of its publisher's span in Message.Trace, in the form of
// W3C Trace Context, from the publisher through the hub's broker to handlers and recipients.
// Inject and Extract write and read it. A Tracer makes the spans, by OpenTelemetry's
// conventions for messaging:
//
//	tracer := otel.New(otel.Options{})
//	hub.SetCallbacks(nil, nil, tracer.OnMessage(onMessage))
//	hub.Handle("order", tracer.Handler("order", placeOrder))
//	...
//	err := tracer.Publish(ctx, "news", m, hub.PublishToChannelContext)
//
// The span of a publication is a child of the span in ctx. The span of a handler is the root
// of a trace of its own, with a link to the publisher's span: a message may have any number of
// recipients, and clients choose freely which trace they state. So a client can neither make
// the server record a trace, nor add spans to one.
//
// Messages with a trace context are about 70 bytes longer, and clients can read the IDs of the
// server's spans in them. The hub passes a trace context of a client on to the recipients of
// its publication.
package otel

import (
	"context"
	"strings"

	"github.com/maoxiaoyue/hypgo-websocket"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// scope is the name of the instrumentation.
const scope = "github.com/maoxiaoyue/hypgo-websocket/trace/otel"

// maxState is the longest tracestate that a hub passes on, in bytes.
const maxState = 256

// Inject sets m.Trace to the context of the span in ctx, or to "" without a span. It leaves
// out a tracestate of more than 256 bytes. The hub sends m.Trace with m.
func Inject(ctx context.Context, m *websocket.Message) {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	m.Trace = carrier[parentKey]
	if state := carrier[stateKey]; m.Trace != "" && state != "" && len(state) <= maxState {
		m.Trace += " " + state
	}
}

// Extract returns ctx with the publisher's span, from m.Trace, as its remote span. It returns
// ctx if m.Trace is empty or malformed. A span that is started with the result is a child of
// the publisher's; Tracer starts spans with a link instead.
func Extract(ctx context.Context, m *websocket.Message) context.Context {
	parent, state, _ := strings.Cut(m.Trace, " ")
	if parent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{parentKey: parent, stateKey: state})
}

// Keys of the headers of W3C Trace Context.
const (
	parentKey = "traceparent"
	stateKey  = "tracestate"
)

// Options configure a Tracer. The zero value is ready for use.
type Options struct {
	// TracerProvider makes the spans. Nil means the global one, otel.GetTracerProvider.
	TracerProvider trace.TracerProvider
}

// Tracer makes the spans of publishers and handlers. Its methods may be called from any
// goroutine at any time. It needs no Close.
type Tracer struct{ tracer trace.Tracer }

// New returns a Tracer.
func New(o Options) *Tracer {
	if o.TracerProvider == nil {
		o.TracerProvider = otel.GetTracerProvider()
	}
	return &Tracer{o.TracerProvider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL))}
}

// PublishFunc publishes m to the channel, room or client of that name. Methods of a hub are
// PublishFuncs: PublishToChannelContext, PublishToRoomContext and SendToClientContext.
type PublishFunc func(ctx context.Context, name string, m *websocket.Message) error

// Publish calls publish with a copy of m that carries the context of a new span "publish",
// and returns its error. The span is a child of the span in ctx. It ends when publish returns,
// and has its error. m is not changed. For a broadcast, and with package client:
//
//	tracer.Publish(ctx, "", m, func(ctx context.Context, _ string, m *websocket.Message) error {
//		return hub.BroadcastMessageContext(ctx, m)
//	})
//	tracer.Publish(ctx, "news", m, func(ctx context.Context, channel string, m *websocket.Message) error {
//		return c.Publish(ctx, channel, m.Data, client.Trace(m.Trace))
//	})
func (t *Tracer) Publish(ctx context.Context, name string, m *websocket.Message, publish PublishFunc) error {
	if m == nil {
		return publish(ctx, name, nil)
	}
	ctx, span := t.tracer.Start(ctx, "publish", trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		append(attributes(m, name), semconv.MessagingOperationName("publish"), semconv.MessagingOperationTypeSend)...))
	defer span.End() // records a panic
	traced := *m
	Inject(ctx, &traced)
	err := publish(ctx, name, &traced)
	setError(span, err)
	return err
}

// Process starts the span of a handler of m, named name: the root of a new trace, with a link to the
// publisher's span if m carries one. The caller ends the span. OnMessage and Handler call it.
// Call it elsewhere for messages that a client of package client receives.
func (t *Tracer) Process(ctx context.Context, name string, m *websocket.Message) (context.Context, trace.Span) {
	options := []trace.SpanStartOption{
		trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
			append(attributes(m, m.Channel), semconv.MessagingOperationName("process"), semconv.MessagingOperationTypeProcess)...),
	}
	if link := trace.LinkFromContext(Extract(context.Background(), m)); link.SpanContext.IsValid() {
		options = append(options, trace.WithLinks(link))
	}
	return t.tracer.Start(ctx, name, options...)
}

// OnMessage returns a callback for Hub.SetCallbacks that runs onMessage in a span "process",
// see Process. ctx is Client.Context with the span. What the hub publishes when the callback
// has returned carries m.Trace: the client's, unless onMessage changes it, for example with
// Inject.
func (t *Tracer) OnMessage(onMessage func(ctx context.Context, c *websocket.Client, m *websocket.Message)) func(*websocket.Client, *websocket.Message) {
	return func(c *websocket.Client, m *websocket.Message) {
		ctx, span := t.Process(c.Context(), "process", m)
		defer span.End() // records a panic
		onMessage(ctx, c, m)
	}
}

// Handler returns a handler for Hub.Handle or Hub.HandleConcurrent that runs handler in a span
// "process typ", see Process. The span has the handler's error. ctx is Client.Context with the
// span.
func (t *Tracer) Handler(typ string, handler websocket.RequestHandler) websocket.RequestHandler {
	name := "process " + typ
	return func(ctx context.Context, c *websocket.Client, m *websocket.Message) (any, error) {
		ctx, span := t.Process(ctx, name, m)
		defer span.End() // records a panic
		result, err := handler(ctx, c, m)
		setError(span, err)
		return result, err
	}
}

// attributes describe m, which is for the channel, room or client named destination.
func attributes(m *websocket.Message, destination string) []attribute.KeyValue {
	all := make([]attribute.KeyValue, 0, 8) // with the operation's
	all = append(all, semconv.MessagingSystemKey.String("hypgo_websocket"), semconv.MessagingMessageBodySize(len(m.Data)))
	if destination != "" {
		all = append(all, semconv.MessagingDestinationName(cut(destination)))
	}
	if m.ID != "" {
		all = append(all, semconv.MessagingMessageID(cut(m.ID)))
	}
	if m.ClientID != "" {
		all = append(all, semconv.MessagingClientID(cut(m.ClientID)))
	}
	return all
}

// maxText is the longest text of an attribute in bytes. A client may send longer ones.
const maxText = 255

// cut returns s as UTF-8 of at most maxText bytes.
func cut(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "")
}

func setError(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		span.SetAttributes(semconv.ErrorType(err))
	}
}
