//go:build unix

package main

import "syscall"

// openFiles returns how many files a process may have open. Go raises the limit as far as
// it may.
func openFiles() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return limit.Max
}
