package websocket

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
)

// guardedCodec calls a Codec, whose input may be chosen by clients, so that a panic of the
// Codec ends nothing but the call. Its name and frame type are those of NewHub. All uses of
// a Codec after NewHub go through it.
type guardedCodec struct {
	Codec            // the application's
	appender         AppendCodec
	decoder          ControlDecoder
	encoder          ControlEncoder
	logger           *guardedLogger
	name             string
	frameType, index int
	at               int  // its index in Hub.codecs
	custom           bool // the application's, not one of this package
}

func guardCodec(c Codec, logger *guardedLogger) *guardedCodec {
	g := &guardedCodec{Codec: c, logger: logger, name: c.Name(), frameType: c.WebSocketMessageType(), index: c.Index(), custom: isCustom(c)}
	g.appender, _ = c.(AppendCodec)
	g.decoder, _ = c.(ControlDecoder)
	g.encoder, _ = c.(ControlEncoder)
	return g
}

// guardCodecs guards all codecs.
func guardCodecs(codecs []Codec, logger *guardedLogger) []*guardedCodec {
	guarded := make([]*guardedCodec, len(codecs))
	for i, c := range codecs {
		guarded[i] = guardCodec(c, logger)
		guarded[i].at = i
	}
	return guarded
}

// Name returns the name that the codec had in NewHub.
func (g *guardedCodec) Name() string { return g.name }

// Index returns the index that the codec had in NewHub.
func (g *guardedCodec) Index() int { return g.index }

// WebSocketMessageType returns the frame type that the codec had in NewHub.
func (g *guardedCodec) WebSocketMessageType() int { return g.frameType }

// headerMark is in the place of a frame's header while the message is encoded. No message
// begins with it. It is as long as the longest header.
const headerMark = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"

// AppendMarshal appends the encoded message to dst. A panic becomes an error, and so does
// a result that does not begin with dst, which has room for the frame's header.
func (g *guardedCodec) AppendMarshal(dst []byte, m *Message) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("websocket: codec %s panicked: %v", g.name, r)
		}
	}()
	if g.appender != nil {
		if !g.custom {
			return g.appender.AppendMarshal(dst, m)
		}
		n := copy(dst, headerMark) // the header is written later
		out, err = g.appender.AppendMarshal(dst, m)
		if err == nil && (len(out) < len(dst) || string(out[:n]) != headerMark[:n]) {
			err = fmt.Errorf("websocket: AppendMarshal of codec %s did not append to dst", g.name)
		}
		return out, err
	}
	b, err := g.Codec.Marshal(m)
	if err != nil {
		return nil, err
	}
	return append(dst, b...), nil
}

// Unmarshal decodes b. A panic becomes an error.
func (g *guardedCodec) Unmarshal(b []byte, m *Message) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: codec %s panicked: %v", ErrMalformed, g.name, r)
		}
	}()
	err = g.Codec.Unmarshal(b, m)
	if err != nil && g.custom {
		err = fmt.Errorf("%w", err) // fmt recovers if err.Error panics
	}
	return err
}

// recovered is deferred by the calls of the codec's other methods. It recovers and logs a
// panic; the call then returns the zero value.
func (g *guardedCodec) recovered(method string) {
	if r := recover(); r != nil {
		g.logger.Errorf("websocket: %s of codec %s panicked: %v\n%s", method, g.name, r, debug.Stack())
	}
}

func (g *guardedCodec) decodeChannel(data []byte) string {
	defer g.recovered("DecodeChannel")
	return g.decoder.DecodeChannel(data)
}

func (g *guardedCodec) decodeRoomID(data []byte) string {
	defer g.recovered("DecodeRoomID")
	return g.decoder.DecodeRoomID(data)
}

// encodeError returns the data of an "error" message.
func (g *guardedCodec) encodeError(code, message string) []byte {
	if g.encoder == nil {
		return appendJSONError(nil, code, message)
	}
	defer g.recovered("EncodeError")
	return g.encoder.EncodeError(code, message)
}

// encodeGap returns the data of a "gap" message.
func (g *guardedCodec) encodeGap(gap Gap) []byte {
	if g.encoder == nil {
		return appendJSONGap(nil, gap)
	}
	defer g.recovered("EncodeGap")
	return g.encoder.EncodeGap(gap)
}

// guardedLogger calls a Logger so that a panic of the Logger ends nothing but the call.
// Messages are often logged while locks are held. The first panic is printed to standard
// error, because it cannot be logged.
type guardedLogger struct {
	l          Logger
	structured StructuredLogger // l, or nil
	filter     levelFilter      // l, or nil
	once       sync.Once
}

func newGuardedLogger(l Logger) *guardedLogger {
	g := &guardedLogger{l: l}
	g.structured, _ = l.(StructuredLogger)
	g.filter, _ = l.(levelFilter)
	return g
}

// levelFilter is an optional interface of a Logger.
type levelFilter interface {
	Enabled(ctx context.Context, level slog.Level) bool
}

// enabled reports whether the Logger wants lines of a level. One that does not say gets all.
func (g *guardedLogger) enabled(ctx context.Context, level slog.Level) (wanted bool) {
	if g.filter == nil {
		return true
	}
	defer g.recover()
	return g.filter.Enabled(ctx, level)
}

// log logs a line with fields. A StructuredLogger gets them as attributes, and another
// Logger as text: "websocket: message: key=value ...". left is the number of similar lines
// that were left out before.
func (g *guardedLogger) log(ctx context.Context, level slog.Level, message string, fields []slog.Attr, left int) {
	message = "websocket: " + message
	if g.structured == nil {
		g.ofLevel(level)(message+": %v%s", textFields(fields), leftOut(left))
		return
	}
	defer g.recover()
	for i := range fields {
		fields[i].Value = fields[i].Value.Resolve()
	}
	if left > 0 {
		fields = append(fields, slog.Int("left_out", left))
	}
	g.structured.LogAttrs(ctx, level, message, fields...)
}

// ofLevel returns the method for a level.
func (g *guardedLogger) ofLevel(level slog.Level) func(format string, args ...any) {
	switch {
	case level >= slog.LevelError:
		return g.Errorf
	case level >= slog.LevelWarn:
		return g.Warningf
	case level >= slog.LevelInfo:
		return g.Infof
	default:
		return g.Debugf
	}
}

func (g *guardedLogger) Debugf(format string, args ...any) {
	defer g.recover()
	g.l.Debugf(format, args...)
}

func (g *guardedLogger) Infof(format string, args ...any) {
	defer g.recover()
	g.l.Infof(format, args...)
}

func (g *guardedLogger) Warningf(format string, args ...any) {
	defer g.recover()
	g.l.Warningf(format, args...)
}

func (g *guardedLogger) Errorf(format string, args ...any) {
	defer g.recover()
	g.l.Errorf(format, args...)
}

// recover is deferred.
func (g *guardedLogger) recover() {
	if r := recover(); r != nil {
		g.once.Do(func() {
			fmt.Fprintf(os.Stderr, "websocket: the Logger panicked: %v\n%s", r, debug.Stack())
		})
	}
}
