package websocket_test

import (
	"bytes"
	"context"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
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

// chainContext runs the handlers of a route one after the other, as the contexts of HypGo
// and gin do.
type chainContext struct {
	hypContext
	handlers []chainHandler
	index    int
}

// chainHandler and chainRoutes have the shape of HandlerFunc and GET in HypGo and gin.
type (
	chainHandler func(*chainContext)
	chainRoutes  struct{ mux *http.ServeMux }
)

func (c *chainContext) Next() {
	for ; c.index < len(c.handlers); c.index++ {
		c.handlers[c.index](c)
	}
}

func (c *chainContext) Abort() { c.index = len(c.handlers) }

func (r *chainRoutes) GET(path string, handlers ...chainHandler) *chainRoutes {
	r.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, req *http.Request) {
		c := &chainContext{hypContext: hypContext{Request: req, Response: w}, handlers: handlers}
		c.Next()
	})
	return r
}

// Route is a handler of a framework. After a refused handshake the later handlers of the
// route do not run; after a successful one they do.
func TestRoute(t *testing.T) {
	t.Parallel()
	later := newInbox[string]()
	config := websocket.DefaultConfig
	config.ClientID = websocket.ClientChosenID
	b := setup(t, config, options{
		handler: func(hub *websocket.Hub) http.Handler {
			r := &chainRoutes{http.NewServeMux()}
			r.GET("/{$}", websocket.Route[*chainContext](hub), func(c *chainContext) { later.put(c.Query("client_id")) })
			return r.mux
		},
		onConnect: func(c *websocket.Client) {
			_, ok := c.FrameworkContext().(*chainContext)
			c.SetMetadata("framework", ok)
		},
	})
	p, c := b.connect(t, dialing{query: "client_id=ann"})
	p.do(t, wire{Type: "broadcast"})
	ok, _ := c.GetMetadata("framework")
	require.Equal(t, true, ok)
	require.Equal(t, "ann", later.take(t))

	for _, query := range []string{"client_id=ann", "client_id=%00"} { // 409 and 401
		_, err := b.tryDial(dialing{query: query})
		require.Error(t, err)
	}
	response := b.handshake(t, "client_id=bob", http.Header{"Upgrade": {"h2c"}})
	require.Equal(t, http.StatusUpgradeRequired, response.StatusCode)
	require.NoError(t, b.hub.Shutdown(t.Context()))
	_, err := b.tryDial(dialing{query: "client_id=bob"})
	require.Error(t, err)
	require.Zero(t, later.len(), "a later handler ran after a refused handshake")
}

// A context without the method Abort is left alone.
func TestServeHTTPWithoutAbort(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{handler: func(h *websocket.Hub) http.Handler {
		r := router.New()
		r.GET("/", websocket.Route[*hypContext](h))
		return r.mux
	}})
	response := b.handshake(t, "", http.Header{"Upgrade": {"h2c"}})
	require.Equal(t, http.StatusUpgradeRequired, response.StatusCode)
}
