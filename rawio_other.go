//go:build unix && (!linux || race)

package websocket

import "syscall"

// rawRead and rawWrite are what the runtime is told of, here where the race
// detector looks, or system calls cannot be made in another way.
func rawRead(fd uintptr, b []byte) (int, syscall.Errno) {
	n, err := syscall.Read(int(fd), b)
	return max(n, 0), errnoOf(err)
}

func rawWrite(fd uintptr, b []byte) (int, syscall.Errno) { return plainWrite(fd, b) }

func tellRuntime() {}
