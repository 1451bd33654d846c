package main

import (
	"net"
	"slices"
)

// goroutineReader reads TLS connections, and all connections on operating
// systems other than Linux, with a goroutine for each.
type goroutineReader struct{ fleet *fleet }

func (g goroutineReader) add(c *client, conn net.Conn, early []byte) error {
	c.conn, c.decoder = conn, newDecoder()
	go g.read(c, early)
	return nil
}

// read returns when the connection has ended.
func (g goroutineReader) read(c *client, early []byte) {
	buf := append(make([]byte, 0, 32<<10), early...)
	for {
		used, err := g.fleet.feed(c, buf)
		if err == nil {
			buf = buf[:copy(buf, buf[used:])]
			buf = slices.Grow(buf, 4<<10)
			var n int
			n, err = c.conn.Read(buf[len(buf):cap(buf)])
			buf = buf[:len(buf)+n]
			if n > 0 {
				continue // the next Read returns the error again
			}
		}
		if err != nil {
			_ = c.conn.Close()
			g.fleet.disconnected(c, err)
			return
		}
	}
}
