package websocket

// FrameChecker is the check of frames on the way in.
type FrameChecker struct{ in inbound }

// NewFrameChecker returns a checker for messages of up to limit bytes on the wire.
func NewFrameChecker(deflate bool, limit int64) *FrameChecker {
	return &FrameChecker{inbound{deflate: deflate, limit: limit}}
}

// Check returns how many bytes of b may be passed on, and the violation, if any.
func (f *FrameChecker) Check(b []byte) (int, *CloseError) {
	n := f.in.check(b)
	return n, f.in.violation
}

// Begin begins to read the next message that has come, and returns whether it is
// compressed.
func (f *FrameChecker) Begin() bool { return f.in.nextCompressed() }

// Remembered returns of how many messages the checker knows that.
func (f *FrameChecker) Remembered() int { return len(f.in.compressed) }
