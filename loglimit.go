package websocket

import (
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// The hub logs logBurst lines of one kind in each logInterval, and counts the others.
const (
	logBurst    = 5
	logInterval = time.Minute
	maxLogKinds = 64 // further kinds share one count
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

// allow reports whether to log a line of a kind at the hub clock now. suffix ends the
// line: it says how many lines were left out since the last one.
func (l *logLimiter) allow(kind string, now int64) (suffix string, ok bool) {
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
		return "", false
	}
	count.logged++
	if count.left > 0 {
		suffix = fmt.Sprintf(" (%d similar lines were left out)", count.left)
		count.left = 0
	}
	return suffix, true
}

// logLimited logs a line with log, a method of h.logger, unless too many lines of its
// kind have been logged.
func (h *Hub) logLimited(kind string, log func(format string, args ...any), format string, args ...any) {
	if suffix, ok := h.logLimit.allow(kind, h.clock()); ok {
		log(format+"%s", append(args, suffix)...)
	}
}

// maxLogText is the maximum length in bytes of a peer's text in the log, before quoting.
const maxLogText = 200

// logText is a text from a peer. In the log it is cut, and quoted so that it cannot
// forge a line.
type logText string

// String implements fmt.Stringer.
func (t logText) String() string {
	s, more := string(t), ""
	if len(s) > maxLogText {
		cut := maxLogText
		for cut > maxLogText-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s, more = s[:cut], "..."
	}
	return fmt.Sprintf("%q", strings.ToValidUTF8(s, "\uFFFD")) + more
}
