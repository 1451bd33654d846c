package websocket

import (
	"net/http"
	"reflect"
)

// Context is what ServeHTTP needs of a framework's request context. HypGo's and
// gin's satisfy it. Both keep the request in an exported field Request and the
// writer in Response or Writer, which ServeHTTP looks for.
type Context interface {
	GetHeader(key string) string
	Query(key string) string
	AbortWithStatus(code int)
}

// ServeHTTP upgrades a request that came through HypGo or gin:
//
//	r.GET("/ws", func(c *hypcontext.Context) { hub.ServeHTTP(c) })
//
// It returns when onConnect has returned, or after the refusal is written. A
// context without request and writer fields is answered with 500.
func (h *Hub) ServeHTTP(c Context) {
	r, w := fieldsOf(c)
	if r == nil || w == nil {
		h.logger.Errorf("websocket: ServeHTTP: %T has no field Request of type *http.Request, or none named Response or Writer that is an http.ResponseWriter", c)
		c.AbortWithStatus(http.StatusInternalServerError)
		return
	}
	h.serve(w, r, c)
}

// fieldsOf reads the fields that no interface can name.
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
		f, err := v.FieldByIndexErr(at.Index) // fails in a nil embedded struct
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
