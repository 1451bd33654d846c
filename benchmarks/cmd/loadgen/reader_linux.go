package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// epollReader reads all plain TCP connections on one thread, with one buffer.
type epollReader struct {
	fleet *fleet
	fd    int
	other goroutineReader

	mu   sync.Mutex
	byFD map[int32]*client
}

func newConnReader(f *fleet) (connReader, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	e := &epollReader{fleet: f, fd: fd, other: goroutineReader{f}, byFD: map[int32]*client{}}
	go e.run()
	return e, nil
}

func (e *epollReader) add(c *client, conn net.Conn, early []byte) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return e.other.add(c, conn, early)
	}
	// Only this reader polls the duplicate descriptor. On the original, Go's
	// poller would wake up for the same bytes.
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var dup error
	err = raw.Control(func(fd uintptr) { c.fd, dup = syscall.Dup(int(fd)) })
	if err = errors.Join(err, dup, conn.Close()); err != nil {
		return err
	}
	syscall.CloseOnExec(c.fd)
	if err := syscall.SetNonblock(c.fd, true); err != nil {
		return err
	}
	if len(early) > 0 { // run does not know this client yet
		c.decoder = newDecoder()
		used, err := e.fleet.feed(c, early)
		if err != nil {
			e.end(c, err)
			return nil
		}
		c.carry = early[used:]
	}
	fd := c.fd // run owns c as soon as it is registered
	e.mu.Lock()
	e.byFD[int32(fd)] = c
	e.mu.Unlock()
	ev := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
	return syscall.EpollCtl(e.fd, syscall.EPOLL_CTL_ADD, fd, &ev)
}

// run ends with the process.
func (e *epollReader) run() {
	runtime.LockOSThread()
	events := make([]syscall.EpollEvent, 1024)
	buf := make([]byte, 512<<10)
	dec := newDecoder()
	ready := make([]*client, 0, len(events))
	for {
		n, err := syscall.EpollWait(e.fd, events, -1)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			e.fleet.fail(fmt.Errorf("epoll: %w", err))
			return
		}
		e.mu.Lock()
		for _, ev := range events[:n] {
			if c := e.byFD[ev.Fd]; c != nil {
				ready = append(ready, c)
			}
		}
		e.mu.Unlock()
		for _, c := range ready {
			c.decoder = dec
			if err := e.read(c, buf); err != nil {
				e.end(c, err)
			}
		}
		clear(ready)
		ready = ready[:0]
	}
}

// read makes one read system call and handles the whole frames in it.
func (e *epollReader) read(c *client, buf []byte) error {
	held := copy(buf, c.carry)
	if held == len(buf) {
		return errors.New("frame larger than the read buffer")
	}
	n, err := syscall.Read(c.fd, buf[held:])
	switch {
	case errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR):
		return nil
	case err != nil:
		return err
	case n == 0:
		return io.EOF
	}
	used, err := e.fleet.feed(c, buf[:held+n])
	if err != nil {
		return err
	}
	c.carry = append(c.carry[:0], buf[used:held+n]...)
	return nil
}

func (e *epollReader) end(c *client, err error) {
	e.mu.Lock()
	delete(e.byFD, int32(c.fd))
	e.mu.Unlock()
	c.out.Lock()
	_ = syscall.Close(c.fd)
	c.fd = -1
	c.out.Unlock()
	e.fleet.disconnected(c, err)
}

// cut ends the connection without a Close frame. The caller holds c.out. The reader
// closes the descriptor.
func (c *client) cut() error {
	if c.conn != nil {
		return c.conn.Close()
	}
	if c.fd < 0 {
		return net.ErrClosed
	}
	return syscall.Shutdown(c.fd, syscall.SHUT_RDWR)
}

// write writes b. The caller holds c.out. It waits up to one second for a full
// socket buffer: clients send little.
func (c *client) write(b []byte) error {
	if c.conn != nil {
		_, err := c.conn.Write(b)
		return err
	}
	if c.fd < 0 {
		return net.ErrClosed
	}
	for range 1000 {
		n, err := syscall.Write(c.fd, b)
		if n > 0 {
			b = b[n:]
		}
		switch {
		case len(b) == 0:
			return nil
		case err == syscall.EAGAIN:
			time.Sleep(time.Millisecond)
		case err != nil && err != syscall.EINTR:
			return err
		}
	}
	return errors.New("the server did not read for a second")
}
