package wsproto

import (
	"encoding/base64"
	"math"
	"slices"
	"strings"
)

// Version is the only value of Sec-WebSocket-Version that RFC 6455 defines
// (section 4.1).
const Version = "13"

// ValidVersion reports whether the lines of Sec-WebSocket-Version offer Version and
// nothing else. A request has one such line with one version (RFC 6455 sections 4.4
// and 11.3.5).
func ValidVersion(lines []string) bool { return len(lines) == 1 && lines[0] == Version }

// ValidKey reports whether a Sec-WebSocket-Key is 16 bytes in base64 (RFC 6455
// section 4.2.1). It does not allocate.
func ValidKey(key string) bool {
	var b [18]byte // room for everything that 24 characters can decode to
	if len(key) != base64.StdEncoding.EncodedLen(16) {
		return false
	}
	n, err := base64.StdEncoding.Decode(b[:], []byte(key))
	return err == nil && n == 16
}

// IsToken reports whether s is a token of HTTP (RFC 9110 section 5.6.2). The names
// of subprotocols are tokens (RFC 6455 section 4.1).
func IsToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		if !alnum && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// AllowedInResponse reports whether an application may set a header field of the
// response to a handshake. It may not set the fields of the handshake, those of one
// connection (RFC 9110 section 7.6.1), which connection may list too, and those that
// describe the body.
func AllowedInResponse(name string, connection []string) bool {
	if !IsToken(name) {
		return false
	}
	lower := strings.ToLower(name)
	switch lower {
	case "connection", "upgrade", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
		"content-encoding", "content-length", "content-range", "content-type":
		return false
	}
	return !strings.HasPrefix(lower, "sec-websocket-") && !slices.ContainsFunc(connection, func(token string) bool {
		return strings.EqualFold(token, name)
	})
}

// ListOf returns the elements of a comma-separated header over all its lines,
// without the empty ones (RFC 9110 section 5.6.1). It does not support quoted strings.
func ListOf(lines []string) []string {
	var list []string
	for _, line := range lines {
		for element := range strings.SplitSeq(line, ",") {
			if element = strings.TrimSpace(element); element != "" {
				list = append(list, element)
			}
		}
	}
	return list
}

// DeflateOffered reports whether the lines of Sec-WebSocket-Extensions have an
// offer of permessage-deflate that can be accepted with the response
// "server_no_context_takeover; client_no_context_takeover" (RFC 7692 section 7.1).
// The client may limit its own window to any size, but not the server's: the
// response would have to repeat server_max_window_bits.
func DeflateOffered(lines []string) bool {
	for _, line := range lines {
		for _, extension := range splitQuoted(line, ',') {
			params := splitQuoted(extension, ';')
			if len(params) > 0 && strings.TrimSpace(params[0]) == "permessage-deflate" && deflateParamsAccepted(params[1:]) {
				return true
			}
		}
	}
	return false
}

// deflateParamsAccepted refuses parameters that are unknown, repeated or have an
// invalid value (RFC 7692 section 7.1).
func deflateParamsAccepted(params []string) bool {
	seen := map[string]bool{}
	for _, param := range params {
		name, value, hasValue := strings.Cut(strings.TrimSpace(param), "=")
		if seen[name] {
			return false
		}
		seen[name] = true
		switch name {
		case "server_no_context_takeover", "client_no_context_takeover":
			if hasValue {
				return false
			}
		case "client_max_window_bits":
			if hasValue && !slices.Contains(windowBits, unquote(value)) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// windowBits are the values that RFC 7692 section 7.1.2 allows, without leading
// zeros.
var windowBits = []string{"8", "9", "10", "11", "12", "13", "14", "15"}

// splitQuoted splits s at separators outside quoted strings (RFC 9110 section
// 5.6.4). It returns nil if a quoted string does not end.
func splitQuoted(s string, separator byte) []string {
	var parts []string
	start, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == separator && !quoted:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	if quoted {
		return nil
	}
	return append(parts, s[start:])
}

func unquote(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

// WireLimit returns the maximum number of bytes that a message of up to size bytes
// may take on the wire. Deflate makes incompressible data longer, by about five
// bytes per 16 KiB.
func WireLimit(size int64) int64 {
	if limit := size + size>>10 + 256; limit > size {
		return limit
	}
	return math.MaxInt64
}
