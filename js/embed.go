// Package js carries the JavaScript client, hub.js, inside a Go program, so that
// a server can hand it to browsers without a file beside its binary:
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

// Handler serves hub.js as an ES module at whatever path it is mounted.
// Browsers ask each time whether it has changed and are answered with 304 where
// it has not.
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
