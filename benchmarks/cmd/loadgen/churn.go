package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/wire"
)

// churn repeats this cycle: connect (the server subscribes the client), send a
// Close frame, and wait until the server has closed the connection.
func churn(ctx context.Context, ch api.Churn) (res api.ChurnResult, err error) {
	if ch.Cycles < 1 || ch.Cycles > 1<<20 || ch.Concurrency < 1 || ch.Concurrency > 1024 || ch.Connect.Targets < 1 {
		return res, errors.New("churn needs 1 to 1,048,576 cycles, a concurrency of 1 to 1,024 and a target")
	}
	ctx, cancel := context.WithTimeout(ctx, min(ch.Limit, 2*time.Minute))
	defer cancel()
	var next, done, failed atomic.Int64
	var first atomic.Pointer[string]
	var wg sync.WaitGroup
	start := time.Now()
	for range ch.Concurrency {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= ch.Cycles {
					return
				}
				if err := cycle(&ch.Connect, i); err != nil {
					failed.Add(1)
					s := err.Error()
					first.CompareAndSwap(nil, &s)
					continue
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	res = api.ChurnResult{Cycles: int(done.Load()), Errors: int(failed.Load()), Wall: time.Since(start)}
	if s := first.Load(); s != nil {
		res.First = *s
	}
	return res, nil
}

func cycle(opt *api.Connect, i int) error {
	conn, _, err := handshake(net.Dialer{Timeout: 10 * time.Second}, opt, i, i%opt.Targets)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	var key [4]byte
	rand.Read(key[:]) // never fails
	if _, err := conn.Write(wire.AppendClient(nil, wire.Close, []byte{0x03, 0xe8}, key)); err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(conn, 4096))
	if err != nil {
		return fmt.Errorf("after the Close frame: %w", err)
	}
	f, n, err := wire.Parse(b, false, 4096)
	if err != nil || n == 0 || f.Op != wire.Close {
		return fmt.Errorf("the server replied to the Close frame with %q", b)
	}
	return nil
}
