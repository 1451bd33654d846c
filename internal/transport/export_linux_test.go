//go:build !386 && !s390x && !asan && !msan && !race

package transport

import "time"

// RawSwitch is a switch of a test's own.
type RawSwitch struct{ rawSwitch }

func NewRawSwitch() *RawSwitch { return &RawSwitch{rawSwitch{start: time.Now()}} }

// Read counts n reads, a multiple of readLot.
func (s *RawSwitch) Read(n int) {
	for range n / readLot {
		s.addLot()
	}
}

func (s *RawSwitch) On() bool { return s.on.Load() }

func (s *RawSwitch) Disable() { s.disabled.Store(true) }

// RawInUse reports whether the process uses raw calls now.
func RawInUse() bool { return rawPays() }
