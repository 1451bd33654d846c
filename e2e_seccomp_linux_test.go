//go:build !386 && !s390x

package websocket_test

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"unsafe"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// TestSystemCallsNotPermitted runs a hub under a seccomp profile that does not allow
// sendto and recvfrom, which net.Conn does not need.
func TestSystemCallsNotPermitted(t *testing.T) {
	if os.Getenv("NOT_PERMITTED_RUN") != "" {
		useWithoutPermission(t)
		return
	}
	if errno, err := strconv.Atoi(os.Getenv("NOT_PERMITTED")); err == nil {
		execWithoutPermission(t, syscall.Errno(errno))
	}
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.ENOSYS} {
		t.Run(errno.Error(), func(t *testing.T) {
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSystemCallsNotPermitted$", "-test.timeout=1m")
			child.Env = append(os.Environ(), "NOT_PERMITTED="+strconv.Itoa(int(errno)))
			out, err := child.CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
	}
}

// execWithoutPermission starts this test in the same process again, under a profile that
// makes sendto and recvfrom fail with errno. It does not return.
func execWithoutPermission(t *testing.T, errno syscall.Errno) {
	const (
		prSetNoNewPrivs, prSetSeccomp = 38, 22
		modeFilter                    = 2
		retAllow, retErrno            = 0x7fff0000, 0x00050000
	)
	load := uint16(syscall.BPF_LD | syscall.BPF_W | syscall.BPF_ABS)
	equal := uint16(syscall.BPF_JMP | syscall.BPF_JEQ | syscall.BPF_K)
	ret := uint16(syscall.BPF_RET | syscall.BPF_K)
	program := []syscall.SockFilter{
		{Code: load, K: 0}, // the number of the system call
		{Code: equal, Jt: 2, K: syscall.SYS_SENDTO},
		{Code: equal, Jt: 1, K: syscall.SYS_RECVFROM},
		{Code: ret, K: retAllow},
		{Code: ret, K: retErrno | uint32(errno)},
	}
	fprog := syscall.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	runtime.LockOSThread() // the profile is the thread's, and of the program that it executes
	_, _, failed := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0)
	require.Zero(t, failed)
	_, _, failed = syscall.RawSyscall6(syscall.SYS_PRCTL, prSetSeccomp, modeFilter, uintptr(unsafe.Pointer(&fprog)), 0, 0, 0)
	if failed != 0 {
		t.Skip("this kernel does not allow a seccomp profile: ", failed)
	}
	require.NoError(t, syscall.Exec(os.Args[0], os.Args, append(os.Environ(), "NOT_PERMITTED_RUN=1")))
}

// useWithoutPermission exchanges messages with a client, first one by one and then more
// than the kernel buffers.
func useWithoutPermission(t *testing.T) {
	_, _, failed := syscall.Syscall6(syscall.SYS_SENDTO, 0, 0, 0, 0, 0, 0)
	require.Equal(t, os.Getenv("NOT_PERMITTED"), strconv.Itoa(int(failed)), "the profile is not in use")

	config := websocket.DefaultConfig
	config.ClientBacklog = 64 << 20 // large enough to avoid eviction
	b := setup(t, config, options{onMessage: func(c *websocket.Client, m *websocket.Message) {
		_ = c.Send(&websocket.Message{Type: "echo", Data: m.Data}) // the test fails if the client does not get it
	}})
	ws, _, err := gorilla.DefaultDialer.Dial(b.url, nil)
	require.NoError(t, err)
	defer ws.Close()
	large := make([]byte, 1<<20)
	for i := range large {
		large[i] = '1'
	}
	for range 300 { // at a rate at which raw system calls would be used
		require.NoError(t, ws.WriteMessage(gorilla.TextMessage, []byte(`{"type":"x","data":1}`)))
		_, _, err := ws.ReadMessage()
		require.NoError(t, err)
	}
	for range 20 {
		require.NoError(t, b.hub.Broadcast(large))
	}
	for range 20 {
		_, got, err := ws.ReadMessage()
		require.NoError(t, err)
		require.Greater(t, len(got), len(large))
	}
}
