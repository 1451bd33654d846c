// Package frameworks_test runs the hub behind the routers of real web frameworks.
package frameworks_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	gorilla "github.com/gorilla/websocket"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// patience is the longest time that a test waits for an event before it fails.
const patience = 30 * time.Second

// routerKey is the key under which a middleware stores the router's own context in the
// context of the request.
type routerKey struct{}

// storeKey is the key of an ordinary value of middleware.
type storeKey struct{}

func with(r *http.Request, router any, user string) *http.Request {
	ctx := context.WithValue(r.Context(), storeKey{}, "stored for "+user)
	return r.WithContext(context.WithValue(ctx, routerKey{}, router))
}

// hypContext has the shape of HypGo's pooled context.
type hypContext struct {
	Request  *http.Request
	Response http.ResponseWriter
}

func (c *hypContext) GetHeader(key string) string { return c.Request.Header.Get(key) }
func (c *hypContext) Query(key string) string     { return c.Request.URL.Query().Get(key) }
func (c *hypContext) AbortWithStatus(code int)    { c.Response.WriteHeader(code) }

// frameworks serve /ws/<user>. read returns the user that the framework's own means find
// through the request of a client, or "".
var frameworks = []struct {
	name      string
	serve     func(hub *websocket.Hub) http.Handler
	read      func(c *websocket.Client) string
	pathValue bool // Request.PathValue has the user
	forEver   bool // read works after the handler has returned
}{
	{
		name: "net/http",
		serve: func(hub *websocket.Hub) http.Handler {
			mux := http.NewServeMux()
			mux.HandleFunc("GET /ws/{user}", func(w http.ResponseWriter, r *http.Request) {
				hub.Handler().ServeHTTP(w, with(r, nil, r.PathValue("user")))
			})
			return mux
		},
		read:      func(c *websocket.Client) string { return c.Request().PathValue("user") },
		pathValue: true,
		forEver:   true,
	},
	{
		name: "chi",
		serve: func(hub *websocket.Hub) http.Handler {
			router := chi.NewRouter()
			router.Get("/ws/{user}", func(w http.ResponseWriter, r *http.Request) {
				hub.Handler().ServeHTTP(w, with(r, nil, chi.URLParam(r, "user")))
			})
			return router
		},
		read:      func(c *websocket.Client) string { return chi.URLParam(c.Request(), "user") },
		pathValue: true,
	},
	{
		name: "gin",
		serve: func(hub *websocket.Hub) http.Handler {
			gin.SetMode(gin.ReleaseMode)
			router := gin.New()
			router.GET("/ws/:user", func(c *gin.Context) {
				c.Request = with(c.Request, c, c.Param("user"))
				hub.ServeHTTP(c)
			})
			return router
		},
		read: func(c *websocket.Client) string {
			if router, ok := c.Context().Value(routerKey{}).(*gin.Context); ok {
				return router.Param("user")
			}
			return ""
		},
	},
	{
		name: "gin's FrameworkContext",
		serve: func(hub *websocket.Hub) http.Handler {
			router := gin.New()
			router.GET("/ws/:user", func(c *gin.Context) {
				c.Request = with(c.Request, nil, c.Param("user"))
				hub.ServeHTTP(c)
			})
			return router
		},
		read: func(c *websocket.Client) string {
			if router, ok := c.FrameworkContext().(*gin.Context); ok {
				return router.Param("user")
			}
			return ""
		},
	},
	{
		name: "echo",
		serve: func(hub *websocket.Hub) http.Handler {
			router := echo.New()
			router.GET("/ws/:user", func(c echo.Context) error {
				hub.Handler().ServeHTTP(c.Response(), with(c.Request(), c, c.Param("user")))
				return nil
			})
			return router
		},
		read: func(c *websocket.Client) string {
			if router, ok := c.Context().Value(routerKey{}).(echo.Context); ok {
				return router.Param("user")
			}
			return ""
		},
	},
	{
		name: "HypGo",
		serve: func(hub *websocket.Hub) http.Handler {
			pool := sync.Pool{New: func() any { return new(hypContext) }}
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c := pool.Get().(*hypContext)
				defer pool.Put(c)
				c.Request, c.Response = with(r, c, r.URL.Path[len("/ws/"):]), w
				hub.ServeHTTP(c)
			})
		},
		read: func(c *websocket.Client) string {
			if router, ok := c.Context().Value(routerKey{}).(*hypContext); ok {
				return router.Request.URL.Path[len("/ws/"):]
			}
			return ""
		},
	},
}

// TestParametersOfOtherUsers connects clients, lets other requests reuse the contexts of
// the router, and then reads the route parameter in OnMessage. It must never be that of
// another user.
func TestParametersOfOtherUsers(t *testing.T) {
	const clients, others = 20, 200
	for _, f := range frameworks {
		t.Run(f.name, func(t *testing.T) {
			type seen struct{ Param, PathValue, Copied, Stored string }
			hub := websocket.NewHub(websocket.SlogLogger(slog.New(slog.DiscardHandler)), websocket.Config{
				OnConnect: func(c *websocket.Client) { c.SetMetadata("user", f.read(c)) },
				OnMessage: func(c *websocket.Client, _ *websocket.Message) {
					copied, _ := c.GetMetadata("user")
					stored, _ := c.Context().Value(storeKey{}).(string)
					data, _ := json.Marshal(seen{f.read(c), c.Request().PathValue("user"), copied.(string), stored})
					_ = c.Send(&websocket.Message{Data: data}) // the client waits for it
				},
			})
			ran := make(chan error, 1)
			go func() { ran <- hub.Run(context.Background()) }() // ends with the hub
			server := httptest.NewServer(f.serve(hub))
			defer func() {
				require.NoError(t, hub.Shutdown(context.Background()))
				require.NoError(t, <-ran)
				server.Close()
			}()

			var peers [clients]*gorilla.Conn
			for i := range peers {
				url := fmt.Sprintf("ws%s/ws/user%d", strings.TrimPrefix(server.URL, "http"), i)
				ws, _, err := gorilla.DefaultDialer.Dial(url, nil)
				require.NoError(t, err)
				peers[i] = ws
			}
			for range others {
				response, err := http.Get(server.URL + "/ws/mallory")
				require.NoError(t, err)
				_, _ = io.Copy(io.Discard, response.Body)
				require.NoError(t, response.Body.Close())
				require.Equal(t, http.StatusUpgradeRequired, response.StatusCode)
			}
			for i, peer := range peers {
				user := fmt.Sprint("user", i)
				require.NoError(t, peer.WriteJSON(map[string]string{"type": "who"}))
				require.NoError(t, peer.SetReadDeadline(time.Now().Add(patience)))
				var reply struct{ Data seen }
				require.NoError(t, peer.ReadJSON(&reply))
				want := seen{Copied: user, Stored: "stored for " + user}
				if f.pathValue {
					want.PathValue = user
				}
				if f.forEver {
					want.Param = user
				}
				require.Equal(t, want, reply.Data)
				require.NoError(t, peer.Close())
			}
		})
	}
}
