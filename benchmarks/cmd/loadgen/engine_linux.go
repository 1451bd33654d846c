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

// epoll reads plain connections, all on one thread with one buffer.
type epoll struct {
	fleet *fleet
	fd    int
	other goroutines

	mu   sync.Mutex
	byFD map[int32]*client
}

func newEngine(f *fleet) (engine, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	e := &epoll{fleet: f, fd: fd, other: goroutines{f}, byFD: map[int32]*client{}}
	go e.run()
	return e, nil
}

func (e *epoll) add(c *client, conn net.Conn, early []byte) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return e.other.add(c, conn, early)
	}
	// A duplicate belongs to us alone; Go's own poller must not wake up too.
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
	if len(early) > 0 { // nobody else reads this client yet
		c.decode = newDecoder()
		used, err := e.fleet.feed(c, early)
		if err != nil {
			e.end(c, err)
			return nil
		}
		c.carry = early[used:]
	}
	fd := c.fd // run owns c once it is registered
	e.mu.Lock()
	e.byFD[int32(fd)] = c
	e.mu.Unlock()
	ev := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
	return syscall.EpollCtl(e.fd, syscall.EPOLL_CTL_ADD, fd, &ev)
}

// run lives as long as the process.
func (e *epoll) run() {
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
			c.decode = dec
			if err := e.read(c, buf); err != nil {
				e.end(c, err)
			}
		}
		clear(ready)
		ready = ready[:0]
	}
}

// read takes what is there, once.
func (e *epoll) read(c *client, buf []byte) error {
	held := copy(buf, c.carry)
	if held == len(buf) {
		return errors.New("frame larger than the read buffer")
	}
	n, err := syscall.Read(c.fd, buf[held:])
	switch {
	case err == syscall.EAGAIN || err == syscall.EINTR:
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

func (e *epoll) end(c *client, err error) {
	e.mu.Lock()
	delete(e.byFD, int32(c.fd))
	e.mu.Unlock()
	c.out.Lock()
	syscall.Close(c.fd)
	c.fd = -1
	c.out.Unlock()
	e.fleet.gone(c, err)
}

// write needs c.out. It waits for a second at most; clients send little.
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
	return errors.New("server does not read")
}
