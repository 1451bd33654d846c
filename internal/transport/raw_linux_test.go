//go:build !386 && !s390x && !asan && !msan && !race

package transport_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
)

// TestRawCallsFollowRate counts reads at several rates and checks whether raw calls are
// in use.
func TestRawCallsFollowRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := transport.NewRawSwitch()
		readFor := func(d, interval time.Duration) { // eight reads in each interval
			for range d / interval {
				s.Read(8)
				time.Sleep(interval)
				synctest.Wait()
			}
		}
		readFor(5*time.Second, 40*time.Millisecond) // 200 a second
		require.False(t, s.On())
		readFor(time.Second, 10*time.Millisecond) // 800 a second
		require.True(t, s.On())
		readFor(5*time.Second, 10*time.Millisecond)
		require.True(t, s.On())
		readFor(time.Second, 40*time.Millisecond)
		require.False(t, s.On())
		readFor(time.Second, 10*time.Millisecond)
		require.True(t, s.On())
		time.Sleep(time.Second)
		synctest.Wait()
		require.False(t, s.On(), "without any read")

		s.Disable()
		readFor(time.Second, 10*time.Millisecond)
		require.False(t, s.On())
	})
}

// TestRawCallsComeIntoUse reads from a connection until raw calls are in use, and then
// waits until they are not.
func TestRawCallsComeIntoUse(t *testing.T) {
	c, _, peer := tcpPair(t)
	b := make([]byte, 1)
	for !transport.RawInUse() {
		_, err := peer.Write(b)
		require.NoError(t, err)
		_, err = c.Read(b)
		require.NoError(t, err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for transport.RawInUse() {
		<-tick.C
	}
}

// TestRawCallsInBubble counts reads in a synctest bubble, whose timers end with it. Raw
// calls do not come into use there. Outside they do, and go out of use again.
func TestRawCallsInBubble(t *testing.T) {
	s := transport.NewRealRawSwitch()
	synctest.Test(t, func(t *testing.T) {
		for range 10 {
			s.Read(800)
			time.Sleep(time.Millisecond)
		}
		require.False(t, s.On())
	})
	require.False(t, s.On())
	for !s.On() {
		s.Read(8)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for s.On() {
		<-tick.C
	}
}
