package main

import (
	"net/http"

	"github.com/olahol/melody"
)

func init() {
	systems["melody"] = func(opt options) (system, error) {
		if opt.sealed != "" {
			return nil, errCannotSeal
		}
		h := &melodyHub{m: melody.New(), rooms: opt.rooms, roster: newRoster[*melody.Session]()}
		h.m.Upgrader.EnableCompression = opt.deflate
		h.m.HandleConnect(func(s *melody.Session) { h.roster.join(s.Keys["target"].(int), s) })
		h.m.HandleDisconnect(func(s *melody.Session) { h.roster.leave(s.Keys["target"].(int), s) })
		h.m.HandleMessage(func(s *melody.Session, p []byte) { _ = h.publish(s.Keys["target"].(int), p) })
		return h, nil
	}
}

// melodyHub uses melody's own broadcast for one large target. For rooms it keeps
// a roster and writes to the room's sessions: melody's filtered broadcast would
// call the filter for every session and every message.
type melodyHub struct {
	m      *melody.Melody
	rooms  bool
	roster *roster[*melody.Session]
}

func (h *melodyHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t, err := target(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_ = h.m.HandleRequestWithKeys(w, r, map[string]any{"target": t}) // it sends its own error responses
}

func (h *melodyHub) publish(target int, p []byte) (err error) {
	if !h.rooms {
		return h.m.Broadcast(p)
	}
	h.roster.each(target, func(s *melody.Session) {
		if e := s.Write(p); e != nil {
			err = e
		}
	})
	return err
}

func (h *melodyHub) flush() {}

func (h *melodyHub) members() int { return h.roster.members() }
