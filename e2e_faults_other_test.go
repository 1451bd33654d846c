//go:build !unix

package websocket_test

import "testing"

// interruptions does nothing on systems without interrupting signals.
func interruptions(*testing.T) (stop func()) { return func() {} }
