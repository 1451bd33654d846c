//go:build unix

package main

import "syscall"

// raiseFileLimit raises the limit of open files to its maximum and returns it. Each
// client needs two.
func raiseFileLimit() uint64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	raised := l
	raised.Cur = l.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err == nil {
		l = raised
	}
	return uint64(l.Cur) //nolint:unconvert // Cur is an int64 on FreeBSD
}
