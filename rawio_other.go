//go:build unix && (!linux || 386 || s390x || asan || msan || race)

package websocket

import "syscall"

// rawRead and rawWrite are ordinary system calls, of which the runtime is told:
// for systems without others, and for detectors, which have to see them.
func rawRead(fd uintptr, b []byte) (int, syscall.Errno) {
	n, err := syscall.Read(int(fd), b)
	return max(n, 0), errnoOf(err)
}

func rawWrite(fd uintptr, b []byte) (int, syscall.Errno) { return toldWrite(fd, b) }

func toldWrite(fd uintptr, b []byte) (int, syscall.Errno) {
	n, err := syscall.Write(int(fd), b)
	return max(n, 0), errnoOf(err)
}

func errnoOf(err error) syscall.Errno {
	errno, _ := err.(syscall.Errno) // reading and writing have no other errors
	return errno
}

func keepMonitor() {}
