// Package js embeds the JavaScript client, hub.js, in a Go program, so that a
// server can serve it to browsers without a separate file:
//
//	mux.Handle("GET /hub.js", js.Handler())
package js

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
	"time"
)

//go:embed hub.js
var source []byte

// Handler serves hub.js as an ES module, at any path. Browsers revalidate it on
// every use and get 304 Not Modified if it has not changed.
func Handler() http.Handler {
	sum := sha256.Sum256(source)
	etag := `"` + hex.EncodeToString(sum[:16]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Type", "text/javascript; charset=utf-8")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Cache-Control", "no-cache")
		header.Set("Etag", etag)
		http.ServeContent(w, r, "hub.js", time.Time{}, bytes.NewReader(source))
	})
}
