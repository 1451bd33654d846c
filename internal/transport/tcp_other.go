//go:build !unix

package transport

import "net"

// countsAbortedWrites is false: Windows does not tell how much of an aborted write was
// sent.
const countsAbortedWrites = false

// TCP is empty on this platform, which has no non-blocking writes.
type TCP struct{}

// peerHasClosed returns false: there is no way to tell.
func peerHasClosed(net.Conn) bool { return false }

// progressOf returns false: there is no way to tell.
func progressOf(net.Conn) (mark uint32, ok bool) { return 0, false }

// newDirect returns nil: New makes a blocking Conn.
func newDirect(net.Conn, *TCP) Conn { return nil }
