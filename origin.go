package websocket

import (
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// originAllowed refuses browsers on other sites, which would act with the
// user's cookies (RFC 6455 section 10.2).
func (h *Hub) originAllowed(r *http.Request) bool {
	if h.config.CheckOrigin != nil {
		return h.config.CheckOrigin(r)
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true // not a browser
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	return strings.EqualFold(u.Host, r.Host) || slices.ContainsFunc(h.config.AllowedOrigins, func(pattern string) bool {
		return originMatches(pattern, u)
	})
}

// originMatches compares the host, and the scheme too where the pattern names one.
func originMatches(pattern string, origin *url.URL) bool {
	subject := origin.Host
	if strings.Contains(pattern, "://") {
		subject = origin.Scheme + "://" + origin.Host
	}
	ok, _ := path.Match(strings.ToLower(pattern), strings.ToLower(subject)) // Validate has tried the pattern
	return ok
}
