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

func TestFateExplains(t *testing.T) {
	evicted := &websocket.CloseError{Code: websocket.CloseTryAgainLater}
	silent := &websocket.CloseError{Code: websocket.CloseTimeout}
	nothing := errors.New("websocket: connection accepted nothing for WriteWait")
	starved := &websocket.CloseError{Code: websocket.CloseAbnormalClosure, Reason: nothing.Error(), Err: nothing}
	evictedStarved := &websocket.CloseError{Code: websocket.CloseTryAgainLater, Err: nothing}
	reset := &websocket.CloseError{Code: websocket.CloseAbnormalClosure, Reason: "reset", Err: syscall.ECONNRESET}
	notTaken := &websocket.CloseError{Code: websocket.CloseTryAgainLater, Err: errors.New("websocket: connection did not take it")}
	ended := time.Now().UnixNano()
	before := func(d time.Duration) int64 { return ended - int64(d) }
	tests := []struct {
		name  string
		fate  fate
		wrote int64
		err   error
		want  bool
	}{
		{"the hub knows of no end", fate{}, 0, io.ErrUnexpectedEOF, false},
		{"starved", fate{why: starved}, 0, io.ErrUnexpectedEOF, true},
		{"starved, but it read at its end", fate{why: starved, reads: []read{{before(2 * time.Second), kernelHolds + 1}}}, 0, io.ErrUnexpectedEOF, false},
		{"starved, it read a little", fate{why: starved, reads: []read{{before(2 * time.Second), kernelHolds}}}, 0, io.ErrUnexpectedEOF, true},
		{"starved, it read before and after", fate{why: starved, reads: []read{{before(writeWait), 1 << 20}, {before(-time.Second), 1 << 20}}}, 0, io.ErrUnexpectedEOF, true},
		{"broken off otherwise", fate{why: reset}, 0, io.ErrUnexpectedEOF, false},
		{"evicted, for once the rest was not taken", fate{why: notTaken, evicted: before(time.Second)}, 0, io.ErrUnexpectedEOF, false},
		{"silent, wrote too late", fate{why: silent}, ended, syscall.ECONNRESET, true},
		{"silent, wrote in time", fate{why: silent}, before(writeWait), syscall.ECONNRESET, false},
		{"silent, not reset", fate{why: silent}, ended, io.ErrUnexpectedEOF, false},
		{"closed by the client", fate{why: &websocket.CloseError{Code: 1000, ByPeer: true}}, ended, syscall.ECONNRESET, false},
		{"evicted, all had been taken", fate{why: evicted, evicted: before(linger + time.Second)}, 0, io.ErrUnexpectedEOF, false},
		{"evicted and starved", fate{why: evictedStarved, evicted: before(time.Second)}, 0, io.ErrUnexpectedEOF, true},
		{"evicted, wrote too late", fate{why: evicted, evicted: before(linger + time.Second)}, ended, syscall.ECONNRESET, true},
		{"evicted, wrote too late and noticed", fate{why: evicted, evicted: before(linger + time.Second)}, ended, syscall.EPIPE, true},
		{"evicted, wrote too late, but that was not the end", fate{why: evicted, evicted: before(linger + time.Second)}, ended, io.ErrUnexpectedEOF, false},
		{"evicted, wrote after the end, which another write was told of", fate{why: evicted, evicted: before(linger + time.Second)}, before(-time.Second), io.ErrUnexpectedEOF, true},
		{"evicted, wrote in time", fate{why: evicted, evicted: before(linger + time.Second)}, before(writeWait), syscall.ECONNRESET, false},
		{"evicted, wrote when the hub should still have waited", fate{why: evicted, evicted: before(time.Second / 2)}, ended, syscall.ECONNRESET, false},
	}
	for i := range tests {
		tt := &tests[i]
		t.Run(tt.name, func(t *testing.T) {
			tt.fate.ended = ended
			tt.fate.wrote.Store(tt.wrote)
			require.Equal(t, tt.want, tt.fate.explains(tt.err), "%v", &tt.fate)
		})
	}
}
