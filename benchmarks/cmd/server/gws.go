package main

import (
	"compress/flate"
	"net/http"

	"github.com/lxzan/gws"
)

func init() {
	systems["gws"] = func(opt options) (system, error) {
		if opt.sealed != "" {
			return nil, errCannotSeal
		}
		h := &gwsHub{roster: newRoster[*gws.Conn]()}
		h.up = gws.NewUpgrader(h, &gws.ServerOption{
			PermessageDeflate: gws.PermessageDeflate{Enabled: opt.deflate, Level: flate.BestSpeed},
		})
		return h, nil
	}
}

// gwsHub is gws with its Broadcaster. gws makes the frame of a message once, and
// runs a write goroutine for a connection only while messages are queued for it.
type gwsHub struct {
	gws.BuiltinEventHandler
	up     *gws.Upgrader
	roster *roster[*gws.Conn]
}

func (h *gwsHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t, err := target(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c, err := h.up.Upgrade(w, r)
	if err != nil {
		return // Upgrade has sent an error response
	}
	c.Session().Store("target", t)
	h.roster.join(t, c)
	go c.ReadLoop() // returns when the connection ends
}

func targetOf(c *gws.Conn) int {
	t, _ := c.Session().Load("target")
	return t.(int)
}

func (h *gwsHub) OnClose(c *gws.Conn, _ error) { h.roster.leave(targetOf(c), c) }

func (h *gwsHub) OnMessage(c *gws.Conn, m *gws.Message) {
	defer func() { _ = m.Close() }()
	_ = h.publish(targetOf(c), m.Bytes()) // OnClose removes the clients that failed
}

func (h *gwsHub) publish(target int, p []byte) (err error) {
	b := gws.NewBroadcaster(gws.OpcodeText, p)
	h.roster.each(target, func(c *gws.Conn) {
		if e := b.Broadcast(c); e != nil {
			err = e
		}
	})
	_ = b.Close()
	return err
}

func (h *gwsHub) flush() {}

func (h *gwsHub) members() int { return h.roster.members() }
