package websocket_test

import (
	"bytes"
	"context"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// Contexts with the methods of real routers; test/frameworks has those routers.
type (
	chiShaped   struct{}
	echoShaped  struct{}
	beegoShaped struct{}
)

func (*chiShaped) Reset()                                          {}
func (*chiShaped) URLParam(string) string                          { return "" }
func (*echoShaped) Reset(*http.Request, http.ResponseWriter)       {}
func (*beegoShaped) Reset(rw http.ResponseWriter, _ *http.Request) {}

// TestContextsOfRoutersAreHidden stores the contexts of routers in the request's context.
// The router recycles them when the handler has returned.
func TestContextsOfRoutersAreHidden(t *testing.T) {
	t.Parallel()
	type key int
	recycled := []any{&hypContext{}, &ginContext{}, &chiShaped{}, &echoShaped{}, &beegoShaped{}}
	ordinary := []any{"user", 7, &struct{ name string }{"a"}, &bytes.Buffer{}, http.Header{}}
	var during []any
	b := setup(t, websocket.DefaultConfig, options{
		handler: func(h *websocket.Hub) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx := r.Context()
				for i, value := range append(recycled, ordinary...) {
					ctx = context.WithValue(ctx, key(i), value)
				}
				h.Handler().ServeHTTP(w, r.WithContext(ctx))
			})
		},
		onConnect: func(c *websocket.Client) {
			for i := range len(recycled) + len(ordinary) {
				during = append(during, c.Request().Context().Value(key(i)))
			}
		},
	})
	p, c := b.connect(t, dialing{})
	p.do(t, wire{Type: "broadcast"}) // OnConnect has returned
	require.Equal(t, append(recycled, ordinary...), during)
	derived, cancel := context.WithCancel(c.Context())
	defer cancel()
	for _, ctx := range []context.Context{c.Request().Context(), c.Context(), derived} {
		for i := range recycled {
			require.Nil(t, ctx.Value(key(i)), "%T", recycled[i])
		}
		for i, value := range ordinary {
			require.Equal(t, value, ctx.Value(key(len(recycled)+i)))
		}
		require.NoError(t, ctx.Err())
		_, hasDeadline := ctx.Deadline()
		require.False(t, hasDeadline)
	}
}
