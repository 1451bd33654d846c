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

func (s slogLogger) logf(level slog.Level, format string, args []any) {
	if s.l.Enabled(context.Background(), level) {
		s.l.Log(context.Background(), level, fmt.Sprintf(format, args...))
	}
}
