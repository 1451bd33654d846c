//go:build !unix

package websocket_test

import "testing"

// interruptions does nothing where there are no signals that interrupt calls.
func interruptions(*testing.T) (stop func()) { return func() {} }
