package main

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestTraceExplains(t *testing.T) {
	evicted := &websocket.CloseError{Code: websocket.CloseTryAgainLater}
	noPong := &websocket.CloseError{Code: websocket.CloseTimeout}
	errWriteWait := errors.New("websocket: connection accepted nothing for WriteWait")
	timedOut := &websocket.CloseError{Code: websocket.CloseAbnormalClosure, Reason: errWriteWait.Error(), Err: errWriteWait}
	evictedTimedOut := &websocket.CloseError{Code: websocket.CloseTryAgainLater, Err: errWriteWait}
	reset := &websocket.CloseError{Code: websocket.CloseAbnormalClosure, Reason: "reset", Err: syscall.ECONNRESET}
	notRead := &websocket.CloseError{Code: websocket.CloseTryAgainLater, Err: errors.New("websocket: connection did not take it")}
	ended := time.Now().UnixNano()
	before := func(d time.Duration) int64 { return ended - int64(d) }
	tests := []struct {
		name  string
		trace connTrace
		wrote int64
		err   error
		want  bool
	}{
		{"no CloseError", connTrace{}, 0, io.ErrUnexpectedEOF, false},
		{"write timeout", connTrace{why: timedOut}, 0, io.ErrUnexpectedEOF, true},
		{"write timeout, but the client read before the end", connTrace{why: timedOut, reads: []read{{before(2 * time.Second), kernelBuffers + 1}}}, 0, io.ErrUnexpectedEOF, false},
		{"write timeout, the client read a little", connTrace{why: timedOut, reads: []read{{before(2 * time.Second), kernelBuffers}}}, 0, io.ErrUnexpectedEOF, true},
		{"write timeout, the client read earlier and later", connTrace{why: timedOut, reads: []read{{before(writeWait), 1 << 20}, {before(-time.Second), 1 << 20}}}, 0, io.ErrUnexpectedEOF, true},
		{"another error", connTrace{why: reset}, 0, io.ErrUnexpectedEOF, false},
		{"evicted, the client did not read the rest", connTrace{why: notRead, dropped: before(time.Second)}, 0, io.ErrUnexpectedEOF, false},
		{"no pong, the client wrote late", connTrace{why: noPong}, ended, syscall.ECONNRESET, true},
		{"no pong, the client wrote in time", connTrace{why: noPong}, before(writeWait), syscall.ECONNRESET, false},
		{"no pong, no reset", connTrace{why: noPong}, ended, io.ErrUnexpectedEOF, false},
		{"closed by the client", connTrace{why: &websocket.CloseError{Code: 1000, ByPeer: true}}, ended, syscall.ECONNRESET, false},
		{"evicted, the client never wrote", connTrace{why: evicted, dropped: before(linger + time.Second)}, 0, io.ErrUnexpectedEOF, false},
		{"evicted after a write timeout", connTrace{why: evictedTimedOut, dropped: before(time.Second)}, 0, io.ErrUnexpectedEOF, true},
		{"evicted, the client wrote late", connTrace{why: evicted, dropped: before(linger + time.Second)}, ended, syscall.ECONNRESET, true},
		{"evicted, the client wrote late, EPIPE", connTrace{why: evicted, dropped: before(linger + time.Second)}, ended, syscall.EPIPE, true},
		{"evicted, the client wrote late, no reset", connTrace{why: evicted, dropped: before(linger + time.Second)}, ended, io.ErrUnexpectedEOF, false},
		{"evicted, a write after the end returned the reset", connTrace{why: evicted, dropped: before(linger + time.Second)}, before(-time.Second), io.ErrUnexpectedEOF, true},
		{"evicted, the client wrote in time", connTrace{why: evicted, dropped: before(linger + time.Second)}, before(writeWait), syscall.ECONNRESET, false},
		{"evicted, the hub did not wait", connTrace{why: evicted, dropped: before(time.Second / 2)}, ended, syscall.ECONNRESET, false},
	}
	for i := range tests {
		tt := &tests[i]
		t.Run(tt.name, func(t *testing.T) {
			tt.trace.ended = ended
			tt.trace.wrote.Store(tt.wrote)
			require.Equal(t, tt.want, tt.trace.explains(tt.err), "%v", &tt.trace)
		})
	}
}
