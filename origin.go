package websocket

import (
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// originAllowed reports whether the origin of a handshake is allowed. A page of
// another site must not connect unasked, because the browser sends the user's cookies
// with the handshake (RFC 6455 section 10.2).
func (c *Config) originAllowed(r *http.Request) bool {
	if c.CheckOrigin != nil {
		return c.CheckOrigin(r)
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true // browsers always send an Origin
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	return strings.EqualFold(u.Host, r.Host) || slices.ContainsFunc(c.AllowedOrigins, func(pattern string) bool {
		return originMatches(pattern, u)
	})
}

// originMatches reports whether a pattern of Config.AllowedOrigins matches an origin.
// Case does not matter. A pattern without a scheme matches every scheme.
func originMatches(pattern string, origin *url.URL) bool {
	subject := origin.Host
	if strings.Contains(pattern, "://") {
		subject = origin.Scheme + "://" + origin.Host
	}
	ok, _ := path.Match(strings.ToLower(pattern), strings.ToLower(subject)) // Config.Validate has checked the pattern
	return ok
}
