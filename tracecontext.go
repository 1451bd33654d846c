package websocket

import "strings"

// Sizes of a trace context in bytes.
const (
	traceparentSize = 55
	maxTracestate   = 256
)

// validTrace returns the part of a Message.Trace that has the form of W3C Trace Context: all
// of it, the traceparent without a malformed tracestate, or "". A later version of the format
// counts if it has the size of version 00.
func validTrace(trace string) string {
	if trace == "" {
		return ""
	}
	parent, state, _ := strings.Cut(trace, " ")
	switch {
	case !isTraceparent(parent):
		return ""
	case len(trace) == len(parent):
		return trace
	case state == "" || len(state) > maxTracestate || strings.ContainsFunc(state, func(r rune) bool { return r < ' ' || r > '~' }):
		return parent
	default:
		return trace
	}
}

// isTraceparent reports whether s is version-traceid-parentid-flags, each in lower-case
// hexadecimal digits, with a valid version and IDs that are not 0.
func isTraceparent(s string) bool {
	const pattern = "xx-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx"
	if len(s) != traceparentSize {
		return false
	}
	for i := range traceparentSize {
		c := s[i]
		if isHex := c >= '0' && c <= '9' || c >= 'a' && c <= 'f'; pattern[i] == '-' && c != '-' || pattern[i] == 'x' && !isHex {
			return false
		}
	}
	return s[:2] != "ff" && strings.Trim(s[3:35], "0") != "" && strings.Trim(s[36:52], "0") != ""
}
