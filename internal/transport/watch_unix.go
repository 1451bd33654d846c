//go:build unix && !linux

package transport

// Watchable implements Conn.
func (*TCP) Watchable() bool { return false }

// Watch implements Conn.
func (*TCP) Watch(*Watcher, Waker) bool { return false }

// Unwatch implements Conn.
func (*TCP) Unwatch(*Watcher) {}
