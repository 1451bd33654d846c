// Package hypgo tests that code written for HypGo's package pkg/websocket compiles and
// works with this library. HypGo cannot be required as a module, so the types in this file
// have the shape of its context, logger and router.
package hypgo

import (
	"context"
	"log/slog"
	"net/http"
	"slices"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// Context has the fields and methods of HypGo's context that the hub uses.
type Context struct {
	Request  *http.Request
	Response http.ResponseWriter

	handlers []HandlerFunc
	index    int
	values   map[string]any
}

// HandlerFunc is the type of HypGo's handlers.
type HandlerFunc func(*Context)

// GetHeader returns a header of the request.
func (c *Context) GetHeader(key string) string { return c.Request.Header.Get(key) }

// Query returns a parameter of the request's URL.
func (c *Context) Query(key string) string { return c.Request.URL.Query().Get(key) }

// Set stores a value for the later handlers.
func (c *Context) Set(key string, value any) {
	if c.values == nil {
		c.values = map[string]any{}
	}
	c.values[key] = value
}

// GetString returns a string that Set stored.
func (c *Context) GetString(key string) string {
	s, _ := c.values[key].(string)
	return s
}

// Next runs the handlers that have not run yet.
func (c *Context) Next() {
	for c.index++; c.index < len(c.handlers); c.index++ {
		c.handlers[c.index](c)
	}
}

// Abort keeps the later handlers from running.
func (c *Context) Abort() { c.index = len(c.handlers) }

// AbortWithStatus writes a status and aborts.
func (c *Context) AbortWithStatus(code int) {
	c.Response.WriteHeader(code)
	c.Abort()
}

// Router has the shape of HypGo's router.
type Router struct {
	mux  http.ServeMux
	used []HandlerFunc
}

// Use adds a middleware for the routes that are registered later.
func (r *Router) Use(middleware ...HandlerFunc) { r.used = append(r.used, middleware...) }

// GET registers a route.
func (r *Router) GET(path string, handlers ...HandlerFunc) {
	chain := slices.Concat(r.used, handlers)
	r.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, req *http.Request) {
		c := &Context{Request: req, Response: w, handlers: chain, index: -1}
		c.Next()
	})
}

// ServeHTTP implements http.Handler.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) { r.mux.ServeHTTP(w, req) }

// Logger has the methods of HypGo's logger since version 0.8.11.
type Logger struct{ websocket.Logger }

// NewLogger returns a Logger.
func NewLogger() *Logger { return &Logger{websocket.SlogLogger(slog.New(slog.DiscardHandler))} }

// Info logs a message with keys and values, as HypGo's Info does.
func (l *Logger) Info(msg string, _ ...any) { l.Infof("%s", msg) }

// userKey is the key of the user in the context of a request.
type userKey struct{}

// KeepUser copies the user that a JWT middleware has set to the request's context, where
// Config.ClientID and Client.Context find it.
func KeepUser(c *Context) {
	c.Request = c.Request.WithContext(context.WithValue(c.Request.Context(), userKey{}, c.GetString("user")))
	c.Next()
}

// UserOf returns the user that KeepUser stored.
func UserOf(ctx context.Context) string {
	user, _ := ctx.Value(userKey{}).(string)
	return user
}
