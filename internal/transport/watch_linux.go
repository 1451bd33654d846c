package transport

import (
	"os"
	"sync"
	"syscall"
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
	fd     int     // of epoll
	wakers []Waker // by descriptor; nil for those that are not watched
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
			n, err := syscall.EpollWait(int(fd), events, 0)
			if err != nil && err != syscall.EINTR || n == 0 {
				return false
			}
			ready = w.take(events[:max(n, 0)], ready[:0])
			for _, waker := range ready {
				waker.Wake()
			}
			clear(ready)
		}
	})
}

// take appends to ready the wakers of events, which are watched no more.
func (w *Watcher) take(events []syscall.EpollEvent, ready []Waker) []Waker {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range events {
		// An event may be older than the connection that has its descriptor now. Then this
		// wakes a connection that has no input, which does no harm.
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
	err := syscall.EpollCtl(w.fd, op, fd, &syscall.EpollEvent{Events: inputEvents, Fd: int32(fd)})
	if err != nil {
		w.wakers[fd] = nil
	}
	return err == nil
}

// remove stops watching fd.
func (w *Watcher) remove(fd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.epoll == nil {
		return
	}
	w.wakers[fd] = nil
	_ = syscall.EpollCtl(w.fd, syscall.EPOLL_CTL_DEL, fd, nil) // fails only for a bad descriptor
}

// Watchable implements Conn.
func (t *TCP) Watchable() bool { return true }

// Watch implements Conn.
func (t *TCP) Watch(w *Watcher, waker Waker) bool {
	ok := false
	err := t.raw.Control(func(fd uintptr) { ok = w.add(int(fd), waker, t.watched) }) // the descriptor stays open meanwhile
	ok = ok && err == nil
	t.watched = t.watched || ok
	return ok
}

// Unwatch implements Conn.
func (t *TCP) Unwatch(w *Watcher) {
	t.watched = false
	_ = t.raw.Control(func(fd uintptr) { w.remove(int(fd)) }) // fails for a closed connection, which is not watched
}
