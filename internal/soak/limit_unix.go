//go:build unix

package main

import "syscall"

// raiseFileLimit allows as many open files as the system does, and returns how
// many that is. Each client takes two.
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
	return uint64(l.Cur)
}
