package websocket

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// The hub logs logBurst lines of one kind in each logInterval, and counts the others.
const (
	logBurst    = 5
	logInterval = time.Minute
	maxLogKinds = 256 // further kinds share one count
)

// logLimiter limits how many lines of each kind are logged, for lines that any peer can
// cause. Its zero value is ready.
type logLimiter struct {
	mu    sync.Mutex
	kinds map[string]*logCount
}

// logCount counts the lines of one kind since the time began.
type logCount struct {
	began  int64 // hub clock
	logged int
	left   int // number of lines that were left out
}

// allow reports whether to log a line of a kind at the hub clock now, and how many lines of
// the kind were left out since the last one.
func (l *logLimiter) allow(kind string, now int64) (left int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := l.kinds[kind]
	if count == nil {
		if len(l.kinds) >= maxLogKinds {
			kind = ""
		}
		if count = l.kinds[kind]; count == nil {
			if l.kinds == nil {
				l.kinds = make(map[string]*logCount)
			}
			count = &logCount{began: now}
			l.kinds[kind] = count
		}
	}
	if now-count.began >= int64(logInterval) {
		count.began, count.logged = now, 0
	}
	if count.logged >= logBurst {
		count.left++
		return 0, false
	}
	count.logged++
	left, count.left = count.left, 0
	return left, true
}

// rest returns how many lines of each kind were left out since the last one, and forgets it.
func (l *logLimiter) rest() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := make(map[string]int)
	for kind, count := range l.kinds {
		if count.left > 0 {
			rest[kind], count.left = count.left, 0
		}
	}
	return rest
}

// logRest logs how many lines were left out that no later line has told.
func (h *Hub) logRest() {
	rest := h.logLimit.rest()
	for _, kind := range slices.Sorted(maps.Keys(rest)) {
		h.log(context.Background(), slog.LevelInfo, "log lines were left out", peerText("kind", kind), slog.Int("left_out", rest[kind]))
	}
}

// leftOut ends a line of text with the number of lines that were left out before it.
func leftOut(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d similar lines were left out)", n)
}

// logLimited logs a line with log, a method of h.logger, unless too many lines of its
// kind have been logged.
func (h *Hub) logLimited(kind string, log func(format string, args ...any), format string, args ...any) {
	if left, ok := h.logLimit.allow(kind, h.clock()); ok {
		log(format+"%s", append(args, leftOut(left))...)
	}
}

// log logs a line with fields: see guardedLogger.log. ctx is that of the request or client
// concerned.
func (h *Hub) log(ctx context.Context, level slog.Level, message string, fields ...slog.Attr) {
	h.logger.log(ctx, level, message, fields, 0)
}

// logFields is log for lines that any peer can cause: it leaves lines out if too many of
// their kind have been logged.
func (h *Hub) logFields(ctx context.Context, kind string, level slog.Level, message string, fields ...slog.Attr) {
	if left, ok := h.logLimit.allow(kind, h.clock()); ok {
		h.logger.log(ctx, level, message, fields, left)
	}
}

// maxLogText is the maximum length in bytes of a peer's text in the log, before quoting.
const maxLogText = 200

// logText is a text from a peer. In the log it is cut, and quoted so that it cannot
// forge a line.
type logText string

// cut returns the text, cut and in valid UTF-8, and whether it was longer.
func (t logText) cut() (s string, longer bool) {
	s = string(t)
	if longer = len(s) > maxLogText; longer {
		cut := maxLogText
		for cut > maxLogText-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut]
	}
	return strings.ToValidUTF8(s, "\uFFFD"), longer
}

// String implements fmt.Stringer.
func (t logText) String() string {
	s, longer := t.cut()
	if s = fmt.Sprintf("%q", s); longer {
		s += "..."
	}
	return s
}

// LogValue implements slog.LogValuer.
func (t logText) LogValue() slog.Value {
	s, longer := t.cut()
	if longer {
		s += "..."
	}
	return slog.StringValue(s)
}

// peerText returns a field with a text from a peer.
func peerText(key, text string) slog.Attr { return slog.Any(key, logText(text)) }

// textFields are the fields of a line of text.
type textFields []slog.Attr

// String implements fmt.Stringer.
func (f textFields) String() string {
	var b strings.Builder
	for i, field := range f {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(field.Key + "=")
		if t, ok := field.Value.Any().(logText); ok {
			b.WriteString(t.String())
		} else {
			b.WriteString(field.Value.String())
		}
	}
	return b.String()
}
