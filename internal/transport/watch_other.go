//go:build !linux

package transport

// Watcher does nothing: only on Linux connections are watched.
type Watcher struct{}

// Close does nothing.
func (*Watcher) Close() {}
