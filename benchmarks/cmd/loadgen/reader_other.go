//go:build !linux

package main

func newConnReader(f *fleet) (connReader, error) { return goroutineReader{f}, nil }

// cut ends the connection without a Close frame. The caller holds c.out.
func (c *client) cut() error { return c.conn.Close() }

// write writes b. The caller holds c.out.
func (c *client) write(b []byte) error {
	_, err := c.conn.Write(b)
	return err
}
