package main

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/child"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/payload"
)

func TestRoster(t *testing.T) {
	t.Parallel()
	r := newRoster[string]()
	in := func(target int) (got []string) {
		r.each(target, func(s string) { got = append(got, s) })
		return got
	}
	r.join(1, "a")
	r.join(1, "b")
	r.join(1, "c")
	r.join(2, "d")
	require.Equal(t, 4, r.members())
	r.leave(1, "a")
	r.leave(1, "a")
	r.leave(1, "d")
	r.leave(3, "a")
	require.ElementsMatch(t, []string{"b", "c"}, in(1))
	r.leave(1, "c")
	r.leave(1, "b")
	require.Empty(t, in(1))
	require.Equal(t, []string{"d"}, in(2))
	require.Equal(t, 1, r.members())
	require.Len(t, r.targets, 1, "an empty target is deleted")
}

// fake is a system that counts instead of sending. It counts three deliveries for
// each message, and none for message number lose.
type fake struct {
	http.Handler
	lose      uint64
	published atomic.Uint64
	received  atomic.Uint64
	flushed   atomic.Uint64
	delay     time.Duration
}

func (f *fake) publish(_ int, p []byte) error {
	time.Sleep(f.delay)
	if _, ok := payload.Seq(p, 128); ok && f.published.Add(1) != f.lose {
		f.received.Add(3)
	}
	return nil
}

func (f *fake) flush()       { f.flushed.Add(1) }
func (f *fake) members() int { return 3 }

// syncTo serves sync connections as the load generator does, and returns the
// address.
func syncTo(t *testing.T, f *fake) string {
	l, err := child.Listen()
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() { // returns when the listener is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go api.ServeSync(c, func(byte, uint64, uint64) api.Arrived {
				return api.Arrived{Received: f.received.Load(), Last: time.Now().UnixNano()}
			})
		}
	}()
	return l.Addr().String()
}

// TestPublishAll runs its subtests one after the other, because they share seqs.
func TestPublishAll(t *testing.T) {
	t.Run("bursts", func(t *testing.T) {
		f := &fake{}
		out, err := publishAll(t.Context(), f, api.Scenario{
			Targets: 1, PerPublish: 3, Size: 128, Sync: syncTo(t, f), Burst: 10, Repeat: 4, MinWall: time.Minute,
		})
		require.NoError(t, err)
		require.Equal(t, uint64(40), out.Published)
		require.Equal(t, uint64(120), out.Expected)
		require.Equal(t, uint64(120), out.Received)
		require.Equal(t, uint64(4), f.flushed.Load())
		require.Positive(t, out.Wall)
	})
	t.Run("a loss ends the bursts", func(t *testing.T) {
		f := &fake{lose: 15}
		out, err := publishAll(t.Context(), f, api.Scenario{
			Targets: 1, PerPublish: 3, Size: 128, Sync: syncTo(t, f), Burst: 10, Repeat: 9, MinWall: time.Minute,
		})
		require.NoError(t, err)
		require.Equal(t, uint64(60), out.Expected)
		require.Equal(t, uint64(57), out.Received)
	})
	t.Run("paced", func(t *testing.T) {
		f := &fake{}
		out, err := publishAll(t.Context(), f, api.Scenario{
			Targets: 7, PerPublish: 3, Size: 128, Sync: syncTo(t, f), Rate: 1000, Duration: 50 * time.Millisecond,
		})
		require.NoError(t, err)
		require.Equal(t, uint64(50), out.Published)
		require.False(t, out.Late)
		require.GreaterOrEqual(t, out.Wall, 45*time.Millisecond)
	})
	t.Run("nobody receives", func(t *testing.T) {
		f := &fake{}
		out, err := publishAll(t.Context(), f, api.Scenario{
			Target: 9, Targets: 1, Size: 128, Sync: syncTo(t, f), Burst: 10, Repeat: 1,
		})
		require.NoError(t, err)
		require.Equal(t, uint64(10), f.published.Load())
		require.Zero(t, out.Expected)
		require.Equal(t, uint32(10), seqs[9].Load())
	})
	t.Run("late", func(t *testing.T) {
		f := &fake{delay: 5 * time.Millisecond}
		out, err := publishAll(t.Context(), f, api.Scenario{
			Targets: 1, PerPublish: 3, Size: 128, Sync: syncTo(t, f), Rate: 10000, Duration: time.Minute, MaxLag: 20 * time.Millisecond,
		})
		require.NoError(t, err)
		require.True(t, out.Late)
		require.Equal(t, out.Expected, out.Received)
	})
	t.Run("too many targets", func(t *testing.T) {
		_, err := publishAll(t.Context(), &fake{}, api.Scenario{Targets: maxTargets + 1, PerPublish: 1})
		require.Error(t, err)
		_, err = publishAll(t.Context(), &fake{}, api.Scenario{Target: maxTargets, Targets: 1})
		require.Error(t, err)
	})
}
