//go:build !unix

package main

import "math"

// openFiles returns no limit.
func openFiles() uint64 { return math.MaxUint64 }
