package websocket

// Pending returns how many bytes wait to be read on this end.
func (c *FakeConn) Pending() int {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return len(c.in.buf)
}
