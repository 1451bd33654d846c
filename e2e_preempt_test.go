package websocket_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// spin waits in a busy loop for another goroutine to run. With one processor it runs
// only if the runtime preempts the loop. spin reports whether that happened within
// ten seconds.
func spin() bool {
	var ran atomic.Bool
	go ran.Store(true) // ends at once
	for start := time.Now(); !ran.Load(); {
		if time.Since(start) > 10*time.Second {
			return false
		}
	}
	return true
}

// spinningCodec is JSON that calls functions before encoding and decoding.
type spinningCodec struct {
	websocket.JSONCodec
	encode, decode func()
}

func (c spinningCodec) Marshal(m *websocket.Message) ([]byte, error) {
	c.encode()
	return c.JSONCodec.Marshal(m)
}

func (c spinningCodec) AppendMarshal(dst []byte, m *websocket.Message) ([]byte, error) {
	c.encode()
	return c.JSONCodec.AppendMarshal(dst, m)
}

func (c spinningCodec) Unmarshal(b []byte, m *websocket.Message) error {
	c.decode()
	return c.JSONCodec.Unmarshal(b, m)
}

// TestUserCodeIsPreempted runs application code that computes for a long time on one
// processor: for the first message after an idle time, for a later one, and for one of
// many in quick succession, when the hub uses raw system calls. Other goroutines must run
// meanwhile, although raw calls do not wake the runtime's monitor thread. The peer is
// another process because its writes would wake that thread.
func TestUserCodeIsPreempted(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // not parallel: this is for the whole process
	for _, code := range []string{"onMessage", "Authorize", "decoding", "encoding"} {
		for _, run := range []int32{1, lateMessages} {
			testPreemption(t, code, run, false)
		}
		testPreemption(t, code, quickMessages, true)
	}
}

// testPreemption computes in the given run of the code, counted from 1. If quick is set,
// the peer sends its next message as soon as it has received the last one.
func testPreemption(t *testing.T, code string, run int32, quick bool) {
	t.Run(fmt.Sprint(code, " ", run), func(t *testing.T) {
		preempted := make(chan bool, 1) // compute sends once, the test receives
		var runs atomic.Int32
		compute := func() {
			if runs.Add(1) == run {
				preempted <- spin()
			}
		}
		config := websocket.DefaultConfig
		config.Subprotocols = nil
		var onMessage func(*websocket.Client, *websocket.Message)
		codec := spinningCodec{encode: func() {}, decode: func() {}}
		switch code {
		case "onMessage":
			onMessage = func(*websocket.Client, *websocket.Message) { compute() }
		case "Authorize":
			config.Authorize = func(*websocket.Client, websocket.AuthorizeRequest) error { compute(); return nil }
		case "decoding":
			codec.decode = compute
			config.Codecs = []websocket.Codec{codec}
		case "encoding":
			codec.encode = compute
			config.Codecs = []websocket.Codec{codec}
		}
		hub := websocket.NewHub(quietLogger{}, config)
		hub.SetCallbacks(func(c *websocket.Client) { _ = c.Subscribe("news") }, nil, onMessage)
		ran := make(chan error, 1)
		go func() { ran <- hub.Run(context.Background()) }() // ends with Shutdown
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		server := &http.Server{Handler: hub.Handler()}
		go server.Serve(listener) //nolint:errcheck // ends with Close

		peer := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLatePeer$")
		peer.Env = append(os.Environ(), "LATE_PEER=ws://"+listener.Addr().String(), fmt.Sprint("QUICK=", quick))
		require.NoError(t, peer.Start())
		require.True(t, <-preempted, "no other goroutine ran for ten seconds")
		require.NoError(t, peer.Process.Kill())
		_ = peer.Wait() // it was killed
		require.NoError(t, hub.Shutdown(t.Context()))
		require.NoError(t, <-ran)
		require.NoError(t, server.Close())
	})
}

// The number of messages that TestLatePeer sends.
const (
	lateMessages  = 50
	quickMessages = 1000
)

// TestLatePeer is the peer of TestUserCodeIsPreempted, in another process.
func TestLatePeer(t *testing.T) {
	url := os.Getenv("LATE_PEER")
	if url == "" {
		t.Skip("runs only as the peer of TestUserCodeIsPreempted")
	}
	ws, _, err := gorilla.DefaultDialer.Dial(url, nil)
	require.NoError(t, err)
	time.Sleep(200 * time.Millisecond) // lets the hub's process become idle
	message := []byte(`{"type":"publish","channel":"news","data":1}`)
	if os.Getenv("QUICK") == "true" {
		for range quickMessages {
			require.NoError(t, ws.WriteMessage(gorilla.TextMessage, message))
			if _, _, err = ws.ReadMessage(); err != nil {
				return // the hub's process has ended
			}
		}
	} else {
		for range lateMessages {
			require.NoError(t, ws.WriteMessage(gorilla.TextMessage, message))
			time.Sleep(4 * time.Millisecond) // lets the hub's process become idle again
		}
	}
	for err == nil { // until the hub's process ends or kills this one
		_, _, err = ws.ReadMessage()
	}
}
