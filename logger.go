package websocket

import (
	"context"
	"fmt"
	"log/slog"
)

// Logger receives the hub's log messages. SlogLogger adapts log/slog, and HypGo's
// *logger.Logger (0.8.11 or newer) implements it. The hub calls its Logger from many
// goroutines, including those that deliver messages. A Logger must be safe for
// concurrent use and must not wait for the hub. A panic ends only the call; the first one
// is printed to standard error. A Logger must not call runtime.Goexit, which ends the
// goroutine that logs.
type Logger interface {
	Debugf(format string, args ...any)
	Infof(format string, args ...any)
	Warningf(format string, args ...any)
	Errorf(format string, args ...any)
}

// StructuredLogger is an optional interface of a Logger. The hub calls LogAttrs in place of
// the other methods for lines about handshakes and connections, so that their fields need
// not be parsed. What Logger demands holds for it too. A *slog.Logger has this method.
//
// Strings from clients are valid UTF-8, of at most 200 bytes, but not escaped: the
// handlers of log/slog do that. ctx has the values of the handshake's request; it may be
// done. If the Logger also has the method Enabled of *slog.Logger, the hub asks it before it
// makes a line about the end of a connection. SlogLogger's result has both.
type StructuredLogger interface {
	Logger
	LogAttrs(ctx context.Context, level slog.Level, message string, attrs ...slog.Attr)
}

// SlogLogger returns a Logger that writes to l. If l is nil it writes to the logger
// that slog.Default returns now.
func SlogLogger(l *slog.Logger) Logger {
	if l == nil {
		l = slog.Default()
	}
	return slogLogger{l}
}

type slogLogger struct{ l *slog.Logger }

func (s slogLogger) Debugf(format string, args ...any)   { s.logf(slog.LevelDebug, format, args) }
func (s slogLogger) Infof(format string, args ...any)    { s.logf(slog.LevelInfo, format, args) }
func (s slogLogger) Warningf(format string, args ...any) { s.logf(slog.LevelWarn, format, args) }
func (s slogLogger) Errorf(format string, args ...any)   { s.logf(slog.LevelError, format, args) }

// Enabled reports whether lines of a level are logged.
func (s slogLogger) Enabled(ctx context.Context, level slog.Level) bool {
	return s.l.Enabled(ctx, level)
}

// LogAttrs implements StructuredLogger.
func (s slogLogger) LogAttrs(ctx context.Context, level slog.Level, message string, attrs ...slog.Attr) {
	s.l.LogAttrs(ctx, level, message, attrs...)
}

func (s slogLogger) logf(level slog.Level, format string, args []any) {
	if s.l.Enabled(context.Background(), level) {
		s.l.Log(context.Background(), level, fmt.Sprintf(format, args...))
	}
}
