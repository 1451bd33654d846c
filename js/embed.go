// Package js embeds the JavaScript client in a Go program, so that a server can
// serve it to browsers without a separate file:
//
//	mux.Handle("GET /hub.js", js.Handler())
package js

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// source is the whole client in one minified ES module. "npm run build" writes it.
//
//go:embed dist/hub.min.js
var source []byte

// content is one encoding of the client.
type content struct {
	data     []byte
	etag     string
	encoding string // empty: not encoded
}

var plain = sync.OnceValue(func() content { return newContent(source, "") })

var gzipped = sync.OnceValue(func() content {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level is valid
	_, _ = w.Write(source)                                // a bytes.Buffer does not fail
	_ = w.Close()
	return newContent(b.Bytes(), "gzip")
})

func newContent(data []byte, encoding string) content {
	sum := sha256.Sum256(data)
	return content{data, `"` + hex.EncodeToString(sum[:16]) + `"`, encoding}
}

// Handler serves the client as an ES module, at any path. The module is minified. It
// is compressed with gzip for browsers that accept this. Browsers revalidate it on
// every use and get 304 Not Modified if it has not changed.
func Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := plain()
		if acceptsGzip(r.Header.Values("Accept-Encoding")) {
			c = gzipped()
		}
		header := w.Header()
		header.Set("Content-Type", "text/javascript; charset=utf-8")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Cache-Control", "no-cache")
		header.Add("Vary", "Accept-Encoding")
		header.Set("Etag", c.etag)
		if c.encoding != "" {
			header.Set("Content-Encoding", c.encoding)
			// ServeContent sets the length only of content without an encoding.
			header.Set("Content-Length", strconv.Itoa(len(c.data)))
		}
		http.ServeContent(w, r, "hub.js", time.Time{}, bytes.NewReader(c.data))
	})
}

// acceptsGzip reports whether the values of Accept-Encoding allow gzip (RFC 9110
// section 12.5.3). An entry for gzip takes precedence over "*".
func acceptsGzip(values []string) bool {
	accepts := false
	for entry := range strings.SplitSeq(strings.Join(values, ","), ",") {
		coding, parameters, _ := strings.Cut(entry, ";")
		coding = strings.ToLower(strings.TrimSpace(coding))
		if coding != "gzip" && coding != "x-gzip" && coding != "*" {
			continue
		}
		allowed := !zeroWeight(parameters)
		if coding != "*" {
			return allowed
		}
		accepts = allowed
	}
	return accepts
}

// zeroWeight reports whether the parameters of an entry have the weight 0, which
// refuses the encoding.
func zeroWeight(parameters string) bool {
	for parameter := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(parameter, "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return err == nil && q == 0
		}
	}
	return false
}
