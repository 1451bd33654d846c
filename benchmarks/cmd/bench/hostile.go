package main

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// hostileKind is a way in which clients use much of a server with few bytes.
type hostileKind struct {
	name  string
	n     int // connections
	first []byte
	again []byte // written all the time; nil means never
}

func hostileKinds() []hostileKind {
	half := maskedFrame(0x81, bytes.Repeat([]byte("x"), 60<<10))
	return []hostileKind{
		{name: "none"},
		{name: "2 deflate bombs", n: 2, again: bytes.Repeat(maskedFrame(0xc1, deflated(`{"type":"x","data":"`+strings.Repeat("x", 60<<10)+`"}`)), 10)},
		{name: "500 unfinished messages", n: 500, first: half[:len(half)-1]},
		{name: "10 ping floods", n: 10, again: bytes.Repeat(maskedFrame(0x89, []byte("x")), 100)},
	}
}

// maskedFrame returns a frame with a masking key of zeros.
func maskedFrame(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	default:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

func deflated(s string) []byte {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		panic(err) // the level is valid
	}
	_, _ = w.Write([]byte(s)) // a bytes.Buffer accepts everything
	_ = w.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xff, 0xff})
}

// attack connects clients of a kind in a room of their own. They end with ctx.
func (k hostileKind) attack(ctx context.Context, addr string) error {
	dialer := websocket.Dialer{EnableCompression: true, Subprotocols: []string{"json"}, HandshakeTimeout: 20 * time.Second}
	for i := range k.n {
		ws, _, err := dialer.DialContext(ctx, fmt.Sprintf("ws://%s/ws?target=%d&client=%d", addr, 1<<20, 1<<20+i), nil)
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { _ = ws.Close() }) // only ends the attack
		go k.run(ws.NetConn())                            // ends with the connection
	}
	return nil
}

func (k hostileKind) run(nc net.Conn) {
	_, err := nc.Write(k.first)
	for err == nil && k.again != nil {
		_, err = nc.Write(k.again)
	}
}

// hostile measures the latency of rooms of two with and without hostile clients.
func hostile(ctx context.Context, b *bench, s spec) (all []result, err error) {
	for _, k := range hostileKinds() {
		res, err := b.hostile(ctx, s, k)
		if err != nil {
			return all, fmt.Errorf("%s: %w", k.name, err)
		}
		all = append(all, res)
	}
	return all, nil
}

func (b *bench) hostile(ctx context.Context, s spec, k hostileKind) (res result, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p, err := b.connected(ctx, s, setup{clients: 20, targets: 10, deflate: true})
	if err != nil {
		return res, err
	}
	defer p.stop()
	if err := k.attack(ctx, p.srv.Ready.WS); err != nil {
		return res, err
	}
	if _, err := p.echo(ctx, 200, 200*time.Millisecond); err != nil { // warms up
		return res, err
	}
	m, err := p.echo(ctx, 200, pick(b, 8*time.Second, 2*time.Second))
	return result{variant: k.name, sample: m, note: p.note}, err
}
