//go:build !unix

package websocket

import "net"

// newSocket returns a socket for writePumps only: non-blocking writes are not
// available on this platform.
func newSocket(nc net.Conn) socket {
	if s, ok := nc.(socket); ok {
		return s
	}
	return &pumpSocket{nc}
}
