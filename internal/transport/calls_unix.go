//go:build unix

package transport

import (
	"errors"
	"syscall"
)

func plainRead(fd uintptr, b []byte) (int, syscall.Errno) {
	n, err := syscall.Read(int(fd), b)
	return max(n, 0), errnoOf(err)
}

func plainWrite(fd uintptr, b []byte) (int, syscall.Errno) {
	n, err := syscall.Write(int(fd), b)
	return max(n, 0), errnoOf(err)
}

// errnoOf returns the error of a function of package syscall, which is an Errno or nil.
func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	_ = err != nil && errors.As(err, &errno)
	return errno
}
