//go:build (386 || s390x) && !asan && !msan && !race

package transport

import "syscall"

// recvfrom and sendto use package syscall: kernels before 4.3 have only socketcall(2) on
// these architectures. There are no raw calls.
func recvfrom(fd uintptr, b []byte, _ bool) (int, syscall.Errno) {
	n, _, err := syscall.Recvfrom(int(fd), b, syscall.MSG_DONTWAIT)
	return max(n, 0), errnoOf(err)
}

func sendto(fd uintptr, b []byte, _ bool) (int, syscall.Errno) {
	n, err := syscall.SendmsgN(int(fd), b, nil, nil, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
	return max(n, 0), errnoOf(err)
}
