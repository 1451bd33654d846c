//go:build unix && (!linux || asan || msan || race)

package transport

import "syscall"

// read and write are ordinary system calls: MSG_DONTWAIT is not available on all of
// these systems, and the race detector and the sanitizers have to see the memory that a
// call uses. On a descriptor in blocking mode they block.
func read(fd uintptr, b []byte, _ bool) (int, syscall.Errno) { return plainRead(fd, b) }

func write(fd uintptr, b []byte, _ bool) (int, syscall.Errno) { return plainWrite(fd, b) }
