package wsproto

// Kept returns the number of messages whose RSV1 bit c keeps.
func (c *Checker) Kept() int { return len(c.compressed) }
