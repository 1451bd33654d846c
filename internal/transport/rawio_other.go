//go:build unix && (!linux || 386 || s390x || asan || msan || race)

package transport

import "syscall"

// rawRead and rawWrite are ordinary system calls here: for systems on which the
// raw ones are not available, and for the race detector and sanitizers, which have
// to see the memory that a call reads or writes.
func rawRead(fd uintptr, b []byte) (int, syscall.Errno) {
	n, err := syscall.Read(int(fd), b)
	return max(n, 0), errnoOf(err)
}

func rawWrite(fd uintptr, b []byte) (int, syscall.Errno) { return syscallWrite(fd, b) }

func syscallWrite(fd uintptr, b []byte) (int, syscall.Errno) {
	n, err := syscall.Write(int(fd), b)
	return max(n, 0), errnoOf(err)
}

func errnoOf(err error) syscall.Errno {
	errno, _ := err.(syscall.Errno) // Read and Write return no other errors
	return errno
}

func keepSysmonAwake() {}
