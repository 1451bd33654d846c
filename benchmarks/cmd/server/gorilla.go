package main

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

func init() {
	systems["gorilla"] = func(opt options) (system, error) {
		if opt.sealed != "" {
			return nil, errCannotSeal
		}
		h := &gorillaHub{
			join:  make(chan *gorillaClient),
			leave: make(chan *gorillaClient),
			post:  make(chan gorillaPost),
			up:    websocket.Upgrader{EnableCompression: opt.deflate, CheckOrigin: func(*http.Request) bool { return true }},
		}
		go h.run()
		return h, nil
	}
}

// gorillaHub is the pattern of gorilla/websocket's chat example, with rooms: a
// hub goroutine that owns the maps, and for each client a channel of 256 messages
// and a goroutine that writes. The hub disconnects a client whose channel is full.
type gorillaHub struct {
	join, leave chan *gorillaClient
	post        chan gorillaPost
	up          websocket.Upgrader
	n           atomic.Int64
}

type gorillaPost struct {
	target int
	p      []byte
}

type gorillaClient struct {
	ws     *websocket.Conn
	target int
	send   chan []byte // the hub sends, and closes it to disconnect the client
}

const (
	writeWait  = 10 * time.Second
	pongWait   = 60 * time.Second
	pingPeriod = 54 * time.Second
)

// run owns the map of rooms. It ends with the process.
func (h *gorillaHub) run() {
	rooms := map[int]map[*gorillaClient]struct{}{}
	drop := func(c *gorillaClient) {
		room := rooms[c.target]
		if _, ok := room[c]; !ok {
			return
		}
		delete(room, c)
		if len(room) == 0 {
			delete(rooms, c.target)
		}
		close(c.send)
		h.n.Add(-1)
	}
	for {
		select {
		case c := <-h.join:
			if rooms[c.target] == nil {
				rooms[c.target] = map[*gorillaClient]struct{}{}
			}
			rooms[c.target][c] = struct{}{}
			h.n.Add(1)
		case c := <-h.leave:
			drop(c)
		case m := <-h.post:
			for c := range rooms[m.target] {
				select {
				case c.send <- m.p:
				default:
					drop(c)
				}
			}
		}
	}
}

func (h *gorillaHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t, err := target(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ws, err := h.up.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has sent an error response
	}
	c := &gorillaClient{ws: ws, target: t, send: make(chan []byte, 256)}
	h.join <- c
	go c.write()
	go h.read(c)
}

// read publishes the client's messages. It returns when the connection ends.
func (h *gorillaHub) read(c *gorillaClient) {
	defer func() {
		h.leave <- c
		_ = c.ws.Close()
	}()
	c.ws.SetReadLimit(64 << 10)
	_ = c.ws.SetReadDeadline(time.Now().Add(pongWait)) // fails only if ws is closed
	c.ws.SetPongHandler(func(string) error { return c.ws.SetReadDeadline(time.Now().Add(pongWait)) })
	for {
		_, p, err := c.ws.ReadMessage()
		if err != nil {
			return
		}
		h.post <- gorillaPost{c.target, p}
	}
}

// write returns when the hub closes the channel or a write fails.
func (c *gorillaClient) write() {
	ticker := time.NewTicker(pingPeriod)
	defer ticker.Stop()
	defer func() { _ = c.ws.Close() }()
	for {
		select {
		case p, ok := <-c.send:
			_ = c.ws.SetWriteDeadline(time.Now().Add(writeWait))
			if !ok {
				_ = c.ws.WriteMessage(websocket.CloseMessage, nil)
				return
			}
			if c.ws.WriteMessage(websocket.TextMessage, p) != nil {
				return
			}
		case <-ticker.C:
			_ = c.ws.SetWriteDeadline(time.Now().Add(writeWait))
			if c.ws.WriteMessage(websocket.PingMessage, nil) != nil {
				return
			}
		}
	}
}

func (h *gorillaHub) publish(target int, p []byte) error {
	h.post <- gorillaPost{target, p}
	return nil
}

func (h *gorillaHub) flush() {}

func (h *gorillaHub) members() int { return int(h.n.Load()) }
