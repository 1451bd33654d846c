package testnet_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// echoServer sends back what it gets, until the test ends.
func echoServer(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() { // returns when the listener is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // returns when the client is gone
				defer func() { _ = c.Close() }()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

// roundTrip sends a text through a link and reads it.
func roundTrip(c net.Conn, text string) (string, error) {
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	got := make([]byte, len(text))
	_, err := io.ReadFull(c, got)
	return string(got), err
}

func TestLink(t *testing.T) {
	t.Parallel()
	l, err := testnet.NewLink(echoServer(t))
	require.NoError(t, err)
	defer l.Close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr())
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	c := dial()
	got, err := roundTrip(c, "a")
	require.NoError(t, err)
	require.Equal(t, "a", got)

	l.SetDelay(20 * time.Millisecond)
	began := time.Now()
	_, err = roundTrip(c, "b")
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(began), 40*time.Millisecond)
	l.SetDelay(0)

	l.Cut(true)
	_, err = io.WriteString(c, "c")
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = c.Read(make([]byte, 1))
	require.ErrorContains(t, err, "timeout", "a silent link passes nothing on")
	l.Restore()
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	_, err = io.ReadFull(c, make([]byte, 1))
	require.NoError(t, err, "nothing is lost")

	l.Cut(false)
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err)
	_, err = roundTrip(dial(), "d")
	require.Error(t, err, "refused")
	l.Restore()
	got, err = roundTrip(dial(), "e")
	require.NoError(t, err)
	require.Equal(t, "e", got)
}
