package websocket

import (
	"context"
	"net/http"
	"reflect"
	"sync/atomic"
	"time"
)

// Context is the request context of a web framework, as Hub.ServeHTTP takes it. The
// contexts of HypGo and gin implement it. ServeHTTP finds the *http.Request in an
// exported field Request, and the http.ResponseWriter in an exported field Response or
// Writer.
type Context interface {
	// GetHeader returns a header of the request.
	GetHeader(key string) string
	// Query returns a parameter of the request's URL.
	Query(key string) string
	// AbortWithStatus ends the request with an HTTP status.
	AbortWithStatus(code int)
}

// ServeHTTP is for HypGo and gin; with net/http use Handler, because a Hub is not an
// http.Handler. It accepts a WebSocket handshake that arrives through one of these
// frameworks:
//
//	router.GET("/ws", func(c *gin.Context) { hub.ServeHTTP(c) })
//
// Route returns such a function. ServeHTTP behaves like Handler: it returns when
// Config.OnConnect has returned, or when the handshake is refused. Until then
// Client.FrameworkContext returns c. After a refusal ServeHTTP calls the method Abort
// of c, if there is one, so that the later handlers of the route do not run. If c
// has no fields for the request and the writer (see Context), ServeHTTP logs an error
// and aborts with status 500. It may be called from any goroutine.
func (h *Hub) ServeHTTP(c Context) {
	r, w := fieldsOf(c)
	if r == nil || w == nil {
		h.logger.Errorf("websocket: ServeHTTP: %T needs a field Request of type *http.Request, and a field Response or Writer that is an http.ResponseWriter", c)
		c.AbortWithStatus(http.StatusInternalServerError)
		return
	}
	if h.serve(w, r, c) {
		return
	}
	if c, ok := c.(interface{ Abort() }); ok {
		c.Abort()
	}
}

// Route returns Hub.ServeHTTP as a handler for a framework whose contexts have type C.
// The method itself cannot be one, because its parameter is an interface:
//
//	router.GET("/ws", websocket.Route[*hypcontext.Context](hub)) // HypGo
//	engine.GET("/ws", websocket.Route[*gin.Context](hub))        // gin
//
// The handler may be used for several routes and by any number of goroutines.
func Route[C Context](h *Hub) func(C) {
	return func(c C) { h.ServeHTTP(c) }
}

// fieldsOf returns the request and the writer of a framework's context, nil for those
// that it does not find. It uses reflection because an interface cannot require
// fields.
func fieldsOf(c Context) (*http.Request, http.ResponseWriter) {
	v := reflect.ValueOf(c)
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil, nil
	}
	field := func(name string) any {
		at, ok := v.Type().FieldByName(name)
		if !ok || !at.IsExported() {
			return nil
		}
		f, err := v.FieldByIndexErr(at.Index) // fails if an embedded pointer is nil
		if err != nil || !f.CanInterface() {
			return nil
		}
		return f.Interface()
	}
	r, _ := field("Request").(*http.Request)
	w, ok := field("Response").(http.ResponseWriter)
	if !ok {
		w, _ = field("Writer").(http.ResponseWriter)
	}
	return r, w
}

// keptContext has the values of a request's context, without its end. Once the handler
// has returned it hides the context of the router, which the next request reuses: a
// route parameter that is read there may be that of another user.
type keptContext struct {
	values   context.Context
	recycled atomic.Bool // the handler has returned
}

func (*keptContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (*keptContext) Done() <-chan struct{}       { return nil }
func (*keptContext) Err() error                  { return nil }

func (k *keptContext) Value(key any) any {
	value := k.values.Value(key)
	if k.recycled.Load() && isRecycled(value) {
		return nil
	}
	return value
}

// isRecycled reports whether a value of a request's context is the context of a router,
// which such routers keep in a pool. It knows them by their methods, because the hub
// does not import them.
func isRecycled(value any) bool {
	switch value.(type) {
	case Context, // HypGo, gin
		interface { // chi
			Reset()
			URLParam(name string) string
		},
		interface { // echo
			Reset(*http.Request, http.ResponseWriter)
		},
		interface { // beego
			Reset(http.ResponseWriter, *http.Request)
		}:
		return true
	}
	return false
}
