package js_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/js"
)

func TestHandlerServesTheModule(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("dist/hub.min.js")
	require.NoError(t, err)

	got := get(t, nil)
	require.Equal(t, http.StatusOK, got.Code)
	require.Equal(t, "text/javascript; charset=utf-8", got.Header().Get("Content-Type"))
	require.Equal(t, "Accept-Encoding", got.Header().Get("Vary"))
	require.Empty(t, got.Header().Get("Content-Encoding"))
	require.Equal(t, file, got.Body.Bytes())
	require.Equal(t, strconv.Itoa(len(file)), got.Header().Get("Content-Length"))
}

func TestHandlerCompresses(t *testing.T) {
	t.Parallel()
	want := get(t, nil).Body.Bytes()

	got := get(t, http.Header{"Accept-Encoding": {"gzip, deflate, br"}})
	require.Equal(t, http.StatusOK, got.Code)
	require.Equal(t, "gzip", got.Header().Get("Content-Encoding"))
	require.Equal(t, "Accept-Encoding", got.Header().Get("Vary"))
	require.Equal(t, strconv.Itoa(got.Body.Len()), got.Header().Get("Content-Length"))
	require.Less(t, got.Body.Len(), len(want)/2)

	r, err := gzip.NewReader(bytes.NewReader(got.Body.Bytes()))
	require.NoError(t, err)
	data, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, want, data)
}

func TestHandlerCompressesOnlyWhereAccepted(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"":                       "",
		"identity":               "",
		"br, deflate":            "",
		"gzip;q=0":               "",
		"gzip; q=0.000, *":       "",
		"*, gzip;q=0":            "",
		"*;q=0":                  "",
		"gzipped":                "",
		"gzip":                   "gzip",
		"GZIP":                   "gzip",
		"x-gzip":                 "gzip",
		"*":                      "gzip",
		"br;q=1.0, gzip; q=0.8 ": "gzip",
		"*;q=0, gzip":            "gzip",
	} {
		got := get(t, http.Header{"Accept-Encoding": {value}})
		require.Equal(t, want, got.Header().Get("Content-Encoding"), "Accept-Encoding: %s", value)
	}
	got := get(t, http.Header{"Accept-Encoding": {"br", "gzip"}})
	require.Equal(t, "gzip", got.Header().Get("Content-Encoding"))
}

func TestHandlerAnswersNotModified(t *testing.T) {
	t.Parallel()
	etags := map[string]bool{}
	for _, encoding := range []string{"identity", "gzip"} {
		etag := get(t, http.Header{"Accept-Encoding": {encoding}}).Header().Get("Etag")
		require.Regexp(t, `^"[0-9a-f]{32}"$`, etag)
		etags[etag] = true

		got := get(t, http.Header{"Accept-Encoding": {encoding}, "If-None-Match": {etag}})
		require.Equal(t, http.StatusNotModified, got.Code)
		require.Empty(t, got.Body.Bytes())
		require.Empty(t, got.Header().Get("Content-Length"))
		require.Equal(t, "Accept-Encoding", got.Header().Get("Vary"))
		require.Equal(t, http.StatusOK, get(t, http.Header{"If-None-Match": {`"another"`}}).Code)
	}
	require.Len(t, etags, 2, "each encoding has its own entity tag")
}

func get(t *testing.T, header http.Header) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/hub.js", nil)
	maps.Copy(r.Header, header)
	w := httptest.NewRecorder()
	js.Handler().ServeHTTP(w, r)
	return w
}
