package main

import (
	"bytes"
	"compress/flate"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/seal"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/wire"
)

var errCannotSeal = errors.New("this system cannot encrypt messages")

func init() {
	systems["bare"] = func(opt options) (system, error) { return newFloor(opt, 1) }
	systems["joined"] = func(opt options) (system, error) { return newFloor(opt, 100) }
}

// floor measures the cost of the work without a library, the lowest cost that a
// library can hope for. The publisher's goroutine makes a frame and writes it to
// one member after the other. Each write holds join messages.
type floor struct {
	opt     options
	join    int
	deflate *flate.Writer
	sealer  *seal.Keys
	roster  *roster[*floorConn]

	mu      sync.Mutex     // guards deflate, sealer, pending and kept
	pending map[int]*batch // by target
	kept    []byte         // the frames of target 0, if it has a history
	ends    []int          // the end of each frame in kept
}

type batch struct {
	buf []byte
	n   int
}

// floorConn serializes writes: in echo, the read goroutines of both members of a
// room publish to it.
type floorConn struct {
	mu sync.Mutex
	net.Conn
}

func (c *floorConn) send(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.Write(b) // after a failure, read ends the connection
}

func newFloor(opt options, join int) (*floor, error) {
	f := &floor{opt: opt, join: join, roster: newRoster[*floorConn](), pending: map[int]*batch{}}
	if opt.deflate {
		w, err := flate.NewWriter(nil, flate.BestSpeed)
		if err != nil {
			return nil, err
		}
		f.deflate = w
	}
	if opt.sealed != "" {
		k, err := seal.New(seal.AESKey, seal.HMACKey)
		if err != nil {
			return nil, err
		}
		f.sealer = k
	}
	return f, nil
}

func (f *floor) publish(target int, p []byte) error {
	first := byte(0x80 | wire.Text)
	if f.deflate != nil || f.sealer != nil || f.join > 1 || f.opt.history > 0 {
		f.mu.Lock()
		defer f.mu.Unlock()
	}
	if f.deflate != nil {
		var b bytes.Buffer
		f.deflate.Reset(&b)
		if _, err := f.deflate.Write(p); err != nil {
			return err
		}
		if err := f.deflate.Flush(); err != nil {
			return err
		}
		p, first = bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xff, 0xff}), first|0x40
	}
	if f.sealer != nil {
		p, first = f.sealer.Seal(nil, p), 0x80|wire.Binary
	}
	if f.opt.keeps(target) {
		f.kept = wire.AppendServer(f.kept, first, p)
		f.ends = append(f.ends, len(f.kept))
	}
	if f.join == 1 {
		frame := wire.AppendServer(make([]byte, 0, len(p)+10), first, p)
		f.roster.each(target, func(c *floorConn) { c.send(frame) })
		return nil
	}
	b := f.pending[target]
	if b == nil {
		b = &batch{}
		f.pending[target] = b
	}
	b.buf = wire.AppendServer(b.buf, first, p)
	if b.n++; b.n == f.join {
		f.write(target, b)
	}
	return nil
}

// write writes a batch to all members of a target. The caller holds mu.
func (f *floor) write(target int, b *batch) {
	f.roster.each(target, func(c *floorConn) { c.send(b.buf) })
	b.buf, b.n = b.buf[:0], 0
}

func (f *floor) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for t, b := range f.pending {
		if b.n > 0 {
			f.write(t, b)
		}
	}
}

func (f *floor) members() int { return f.roster.members() }

func (f *floor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t, err := target(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + wire.GUID))
	ans := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\n"
	if f.deflate != nil {
		ans += "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
	}
	_ = conn.SetDeadline(time.Time{}) // fails only if conn is closed
	if _, err := conn.Write([]byte(ans + "\r\n")); err != nil {
		_ = conn.Close()
		return
	}
	c := &floorConn{Conn: conn}
	f.roster.join(t, c)
	go f.read(t, c)
}

// replay answers a subscribe request with what the client has missed, in one write. The
// request and the reply are like the library's.
func (f *floor) replay(c *floorConn, request []byte) {
	f.mu.Lock()
	missed, ends := f.kept, f.ends
	f.mu.Unlock()
	since := len(ends)
	if _, text, ok := bytes.Cut(request, []byte(`"offset":`)); ok {
		n, _ := strconv.Atoi(string(bytes.TrimRight(text, "}"))) // replays all if it is malformed
		since = min(n, since)
	}
	if since > 0 {
		missed = missed[ends[since-1]:]
	}
	reply := fmt.Sprintf(`{"type":"ack","channel":"t0","id":"2","data":{"epoch":"floor","complete":true,"offset":%d}}`, len(ends))
	c.mu.Lock()
	defer c.mu.Unlock()
	b := net.Buffers{wire.AppendServer(nil, 0x80|wire.Text, []byte(reply)), missed}
	_, _ = b.WriteTo(c.Conn) // after a failure, read ends the connection
}

// read publishes the connection's messages. It returns when the connection ends.
func (f *floor) read(target int, c *floorConn) {
	defer func() { _ = c.Close() }()
	defer f.roster.leave(target, c)
	buf, n := make([]byte, 512), 0
	for {
		k, err := c.Read(buf[n:])
		if err != nil {
			return
		}
		n += k
		at := 0
		for {
			fr, size, err := wire.Parse(buf[at:n], true, len(buf)-14)
			if err != nil {
				return
			}
			if size == 0 {
				break
			}
			at += size
			switch fr.Op {
			case wire.Close:
				c.send(wire.AppendServer(nil, 0x80|wire.Close, fr.Payload))
				return
			case wire.Text, wire.Binary:
				if f.opt.subscribe {
					f.replay(c, fr.Payload)
				} else if f.publish(target, fr.Payload) != nil {
					return
				}
			}
		}
		n = copy(buf, buf[at:n])
	}
}
