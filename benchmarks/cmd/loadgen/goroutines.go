package main

import (
	"net"
	"slices"
)

// goroutines is the engine for TLS and for systems without epoll.
type goroutines struct{ fleet *fleet }

func (g goroutines) add(c *client, conn net.Conn, early []byte) error {
	c.conn, c.decode = conn, newDecoder()
	go g.read(c, early)
	return nil
}

// read ends with the connection.
func (g goroutines) read(c *client, early []byte) {
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
				continue // an error comes again
			}
		}
		if err != nil {
			g.fleet.gone(c, err)
			c.conn.Close()
			return
		}
	}
}
