package js_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/js"
)

func TestHandlerServesTheModule(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("hub.js")
	require.NoError(t, err)

	got := get(t, "")
	require.Equal(t, http.StatusOK, got.Code)
	require.Equal(t, "text/javascript; charset=utf-8", got.Header().Get("Content-Type"))
	require.Equal(t, file, got.Body.Bytes())
}

func TestHandlerAnswersNotModified(t *testing.T) {
	t.Parallel()
	etag := get(t, "").Header().Get("Etag")
	require.Regexp(t, `^"[0-9a-f]{32}"$`, etag)

	got := get(t, etag)
	require.Equal(t, http.StatusNotModified, got.Code)
	require.Empty(t, got.Body.Bytes())
	require.Equal(t, http.StatusOK, get(t, `"another"`).Code)
}

func get(t *testing.T, etag string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/hub.js", nil)
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
	}
	w := httptest.NewRecorder()
	js.Handler().ServeHTTP(w, r)
	return w
}
