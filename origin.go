package websocket

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// nullOrigin is the Origin of pages without one, such as sandboxed frames (RFC 6454
// section 7.1). Any site can make such a page.
const nullOrigin = "null"

// origin is a parsed Origin header (RFC 6454 section 4).
type origin struct {
	scheme string
	host   string // normalized; an IPv6 address is in brackets
	port   string // the scheme's default if the header has none; empty if there is no default
}

// defaultPorts are the default ports of schemes.
var defaultPorts = map[string]string{"http": "80", "https": "443"}

// parseOrigin parses an Origin header other than "null".
func parseOrigin(s string) (origin, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return origin{}, false
	}
	host, port := splitHost(u.Host)
	if port == "" {
		port = defaultPorts[u.Scheme]
	}
	return origin{u.Scheme, normalizeHost(host), port}, true
}

// splitHost splits the port off. The port is empty if there is none.
func splitHost(hostport string) (host, port string) {
	if i := strings.LastIndexByte(hostport, ':'); i > strings.LastIndexByte(hostport, ']') {
		return hostport[:i], hostport[i+1:]
	}
	return hostport, ""
}

// normalizeHost returns a host in lower case, without a final dot, and an IPv6 address
// in its shortest form.
func normalizeHost(host string) string {
	if ip, ok := bracketed(host); ok {
		return "[" + ip.String() + "]"
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// bracketed returns the IPv6 address that host is in brackets.
func bracketed(host string) (netip.Addr, bool) {
	if len(host) < 2 || host[0] != '[' || host[len(host)-1] != ']' {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(host[1 : len(host)-1])
	return ip, err == nil && ip.Is6()
}

// originPatterns returns AllowedOrigins in the form that originAllowed needs.
func (c *Config) originPatterns() []string {
	patterns := make([]string, len(c.AllowedOrigins))
	for i, pattern := range c.AllowedOrigins {
		patterns[i], _ = originPattern(pattern) // Validate has checked it
	}
	return patterns
}

// originAllowed reports whether the origin of a handshake is allowed. A page of
// another site must not connect unasked, because the browser sends the user's cookies
// with the handshake (RFC 6455 section 10.2).
func (c *Config) originAllowed(r *http.Request, origins []string) bool {
	if c.CheckOrigin != nil {
		return c.CheckOrigin(r)
	}
	lines := r.Header["Origin"]
	if len(lines) == 0 || len(lines) == 1 && lines[0] == "" {
		return true // browsers always send an Origin
	}
	if len(lines) > 1 {
		return false
	}
	if lines[0] == nullOrigin {
		return slices.Contains(origins, nullOrigin)
	}
	o, ok := parseOrigin(lines[0])
	return ok && (o.isHostOf(r) || o.matchesAny(origins))
}

// refuseOrigin returns the refusal of a handshake whose origin is not allowed.
func (h *Hub) refuseOrigin(r *http.Request) error {
	e := &refusal{reason: RefusedOrigin, status: http.StatusForbidden, text: fmt.Sprintf("websocket: origin %q is not allowed", r.Header.Get("Origin"))}
	if h.config.CheckOrigin != nil {
		e.cause = errors.New("Config.CheckOrigin returned false")
	} else {
		e.cause = errors.New("the origin is not the request's host and port, and not in Config.AllowedOrigins; a proxy must pass on the Host header")
	}
	return e
}

// isHostOf reports whether o has the host and port of a request. A Host header without
// a port means the default port of the request's scheme. Behind a proxy that ends TLS
// the scheme is unknown, and the origin's counts.
func (o origin) isHostOf(r *http.Request) bool {
	host, port := splitHost(r.Host)
	if port == "" {
		port = defaultPorts[o.scheme]
		if port != "" && r.TLS != nil {
			port = defaultPorts["https"]
		}
	}
	return normalizeHost(host) == o.host && port == o.port
}

// matchesAny reports whether o matches one of the patterns that originPattern returned.
// The default port matches if it is written and if it is not.
func (o origin) matchesAny(patterns []string) bool {
	subjects := []string{o.host + ":" + o.port, o.host}
	switch o.port {
	case "":
		subjects = subjects[1:]
	case defaultPorts[o.scheme]:
	default:
		subjects = subjects[:1]
	}
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		return pattern != nullOrigin && slices.ContainsFunc(subjects, func(subject string) bool {
			if strings.Contains(pattern, "://") {
				subject = o.scheme + "://" + subject
			}
			ok, _ := path.Match(pattern, subject) // originPattern has checked the pattern
			return ok
		})
	})
}

// originPattern returns a pattern of Config.AllowedOrigins in the form that matchesAny
// needs, or the reason for which no Origin header could match it.
func originPattern(pattern string) (string, error) {
	pattern = strings.ToLower(pattern)
	if pattern == nullOrigin {
		return pattern, nil
	}
	scheme, rest, hasScheme := strings.Cut(pattern, "://")
	if !hasScheme {
		scheme, rest = "", pattern
	}
	switch {
	case scheme == "ws" || scheme == "wss":
		return "", errors.New("an origin has the scheme of the page, such as https, and not that of the WebSocket")
	case hasScheme && (scheme == "" || strings.Trim(scheme, schemeChars+wildcards) != ""):
		return "", errors.New("the scheme is invalid")
	case rest == "":
		return "", errors.New("it has no host; use Config.CheckOrigin for origins without one")
	case strings.ContainsRune(rest, '/'):
		return "", errors.New("an origin has no path and no slash at the end")
	}
	host, port, err := splitPattern(rest)
	if err != nil {
		return "", err
	}
	pattern = pattern[:len(pattern)-len(rest)] + host
	if port != "" {
		pattern += ":" + port
	}
	_, err = path.Match(pattern, "")
	return pattern, err
}

// splitPattern splits a pattern without a scheme into a normalized host and the port,
// which may be empty.
func splitPattern(pattern string) (host, port string, err error) {
	if end := strings.IndexByte(pattern, ']') + 1; end > 0 {
		if _, ok := bracketed(pattern[:end]); ok {
			port, hasPort := strings.CutPrefix(pattern[end:], ":")
			if !hasPort && port != "" || hasPort && !isPort(port) {
				return "", "", errPatternPort
			}
			return strings.NewReplacer("[", `\[`, "]", `\]`).Replace(normalizeHost(pattern[:end])), port, nil // no class of path.Match
		}
	}
	host = pattern
	if i := strings.LastIndexByte(pattern, ':'); i >= 0 {
		host, port = pattern[:i], pattern[i+1:]
		switch {
		case strings.Contains(host, ":"):
			return "", "", errors.New("an IPv6 address needs brackets")
		case !isPort(port):
			return "", "", errPatternPort
		}
	}
	if host == "" || strings.Trim(host, hostChars+wildcards) != "" {
		return "", "", errors.New("the host is invalid: browsers send letters, digits, dots, hyphens and underscores, and other letters in Punycode (xn--...)")
	}
	return strings.TrimSuffix(host, "."), port, nil
}

var errPatternPort = errors.New("the port is invalid: it is a number from 1 to 65535")

// isPort reports whether s is a port, or a pattern of characters that may match one.
func isPort(s string) bool {
	if s != "" && strings.Trim(s, "0123456789") == "" {
		n, err := strconv.ParseUint(s, 10, 16)
		return err == nil && n > 0 && s[0] != '0'
	}
	return s != "" && s[0] != '-' && strings.Trim(s, "0123456789-"+wildcards) == ""
}

// Characters of patterns in lower case. wildcards are those of path.Match, whose
// classes also have hyphens.
const (
	schemeChars = "abcdefghijklmnopqrstuvwxyz0123456789+-."
	hostChars   = "abcdefghijklmnopqrstuvwxyz0123456789-._"
	wildcards   = `*?[]^\`
)
