//go:build unix && (!linux || 386 || s390x || asan || msan || race)

package transport

func rawPays() bool { return false }

func countRead() {}

// DisableRaw does nothing: there are no raw calls.
func DisableRaw() {}
