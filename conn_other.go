//go:build !unix

package websocket

import "net"

// tcpSocket is not used on this platform.
type tcpSocket struct{}

// newSocket returns a socket for writePumps only: non-blocking writes are not
// available on this platform.
func newSocket(nc net.Conn, _ *tcpSocket) socket {
	if s, ok := nc.(socket); ok {
		return s
	}
	return &pumpSocket{nc}
}
