package transport

import (
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// Watcher tells when watched connections have input. It has an epoll instance of its own,
// with one goroutine for all of them. The zero value is ready to use; the first Watch
// starts the goroutine.
//
// The runtime's poller can wait for an epoll instance as for any descriptor, so the
// goroutine keeps no thread.
type Watcher struct {
	mu     sync.Mutex
	epoll  *os.File
	fd     int                // of epoll
	wakers []Waker            // by descriptor; nil for those that are not watched
	event  syscall.EpollEvent // an argument, which would escape to the heap
	closed bool
	done   chan struct{} // closed by run
}

// Close ends the goroutine and waits for it. Nothing is watched any more.
func (w *Watcher) Close() {
	w.mu.Lock()
	epoll := w.epoll
	w.closed, w.epoll, w.wakers = true, nil, nil
	w.mu.Unlock()
	if epoll != nil {
		_ = epoll.Close() // only wakes run
		<-w.done
	}
}

// start makes the epoll instance. The caller holds mu.
func (w *Watcher) start() bool {
	if w.closed || w.epoll != nil {
		return !w.closed
	}
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return false
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // os.NewFile gives only such files to the runtime's poller
		_ = syscall.Close(fd)
		return false
	}
	epoll := os.NewFile(uintptr(fd), "epoll")
	raw, err := epoll.SyscallConn()
	if err != nil {
		_ = epoll.Close()
		return false
	}
	w.epoll, w.fd, w.done = epoll, fd, make(chan struct{})
	go w.run(raw) // ends with Close
	return true
}

// run wakes connections until Close is called.
func (w *Watcher) run(raw syscall.RawConn) {
	defer close(w.done)
	events := make([]syscall.EpollEvent, 128)
	ready := make([]Waker, 0, len(events))
	_ = raw.Read(func(fd uintptr) bool { // returns when the file is closed
		for {
			n := epollWait(int(fd), events)
			ready = w.take(events[:n], ready[:0])
			for _, waker := range ready {
				waker.Wake()
			}
			clear(ready)
			if n < len(events) { // the runtime's poller reports every later event
				return false
			}
		}
	})
}

// epollWait returns the number of events that have occurred. It does not wait. The call is
// short, see Conn.TryWrite about raw calls.
func epollWait(fd int, events []syscall.EpollEvent) int {
	for {
		n, errno := epollCall(syscall.SYS_EPOLL_PWAIT, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0)
		if errno != syscall.EINTR {
			return max(n, 0) // any other error ends Watcher.run: the file is closed
		}
	}
}

// epollCtl is like syscall.EpollCtl.
func epollCtl(epoll, op, fd int, event *syscall.EpollEvent) bool {
	_, errno := epollCall(syscall.SYS_EPOLL_CTL, uintptr(epoll), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(event)))
	return errno == 0
}

// epollCall makes a system call that does not wait, a raw one if that pays.
//
//go:uintptrescapes
func epollCall(trap, a, b, c, d uintptr) (int, syscall.Errno) {
	call := syscall.Syscall6
	if rawPays() {
		call = syscall.RawSyscall6
	}
	n, _, errno := call(trap, a, b, c, d, 0, 0)
	return int(n), errno
}

// take appends to ready the wakers of events, which are watched no more.
func (w *Watcher) take(events []syscall.EpollEvent, ready []Waker) []Waker {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range events {
		// An event may be older than the connection that has its descriptor now. Then this
		// wakes a connection that has no input, which stays awake until it has some: at the
		// latest the pong of the next ping.
		if fd := int(e.Fd); fd < len(w.wakers) && w.wakers[fd] != nil {
			ready = append(ready, w.wakers[fd])
			w.wakers[fd] = nil
		}
	}
	return ready
}

// inputEvents are input and its end. They are reported once.
const inputEvents = syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT

// add watches fd. known says that the epoll instance has fd already.
func (w *Watcher) add(fd int, waker Waker, known bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.start() {
		return false
	}
	if fd >= len(w.wakers) {
		w.wakers = append(w.wakers, make([]Waker, fd+1-len(w.wakers))...)
	}
	w.wakers[fd] = waker
	op := syscall.EPOLL_CTL_ADD
	if known {
		op = syscall.EPOLL_CTL_MOD
	}
	w.event = syscall.EpollEvent{Events: inputEvents, Fd: int32(fd)}
	ok := epollCtl(w.fd, op, fd, &w.event)
	if !ok {
		w.wakers[fd] = nil
	}
	return ok
}

// remove stops watching fd.
func (w *Watcher) remove(fd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.epoll == nil {
		return
	}
	w.wakers[fd] = nil
	_ = epollCtl(w.fd, syscall.EPOLL_CTL_DEL, fd, nil) // fails only for a bad descriptor
}

// Watchable implements Conn.
func (t *TCP) Watchable() bool { return true }

// watchCall holds the arguments and the result of one call of RawConn.Control, whose
// function value is made once.
type watchCall struct {
	run   func(fd uintptr) // the method watch
	w     *Watcher
	waker Waker
	known bool
	ok    bool
}

var watchCalls = sync.Pool{New: func() any {
	c := &watchCall{}
	c.run = c.watch
	return c
}}

func (c *watchCall) watch(fd uintptr) { c.ok = c.w.add(int(fd), c.waker, c.known) }

// Watch implements Conn.
func (t *TCP) Watch(w *Watcher, waker Waker) bool {
	c := watchCalls.Get().(*watchCall)
	c.w, c.waker, c.known, c.ok = w, waker, t.watched, false
	err := t.raw.Control(c.run) // the descriptor stays open meanwhile
	ok := c.ok && err == nil
	c.w, c.waker = nil, nil
	watchCalls.Put(c)
	t.watched = t.watched || ok
	return ok
}

// Unwatch implements Conn.
func (t *TCP) Unwatch(w *Watcher) {
	t.watched = false
	_ = t.raw.Control(func(fd uintptr) { w.remove(int(fd)) }) // fails for a closed connection, which is not watched
}
