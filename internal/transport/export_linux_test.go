//go:build !386 && !s390x && !asan && !msan && !race

package transport

import "time"

// RawSwitch is a switch of a test's own.
type RawSwitch struct{ rawSwitch }

// NewRawSwitch returns a switch that takes the clock of a synctest bubble for the real one.
func NewRawSwitch() *RawSwitch { return &RawSwitch{rawSwitch{realNow: time.Now}} }

// NewRealRawSwitch returns a switch as the package uses it.
func NewRealRawSwitch() *RawSwitch { return &RawSwitch{rawSwitch{realNow: realNow}} }

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
