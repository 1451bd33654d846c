package websocket_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// goaway returns hub:hello of a client that understands hub:goaway.
const goawayHello = `{"type":"hub:hello","id":"1","data":{"features":["goaway"]}}`

// drainPeer is a peer of a hub that drains.
type drainPeer struct {
	*fakePeer
	told   time.Duration // the delay in hub:goaway; -1 without one
	toldAt time.Duration // since the drain began
	code   int           // of the hub's Close frame; 0 if the peer closed first
	reason string
	ended  time.Duration // when the Close frame was received or sent, since the drain began
	data   []any         // of other messages
}

// watch reads until the end of the connection. A peer that obeys closes after the delay.
func (p *drainPeer) watch(begin time.Time, obeys bool) {
	p.told = -1
	left := make(chan struct{}) // closed by the timer: the peer has closed first
	for {
		_, b, err := p.ReadMessage()
		var closed *gorilla.CloseError
		if errors.As(err, &closed) {
			select {
			case <-left:
			default:
				p.code, p.reason, p.ended = closed.Code, closed.Text, time.Since(begin)
			}
		}
		if err != nil {
			_ = p.Close()
			return
		}
		var m struct {
			Type string
			Data any
		}
		_ = json.Unmarshal(b, &m)
		if m.Type != "hub:goaway" {
			p.data = append(p.data, m.Data)
			continue
		}
		p.toldAt = time.Since(begin)
		p.told = time.Duration(m.Data.(map[string]any)["delay"].(float64) * 1e6) // from milliseconds
		if obeys {
			time.AfterFunc(p.told, func() {
				close(left)
				p.ended = time.Since(begin)
				_ = p.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1001, ""), time.Now().Add(time.Second))
			})
		}
	}
}

// connectDrainPeers connects peers. Those with an even index understand hub:goaway.
func connectDrainPeers(t *testing.T, hub *fakeHub, n int) []*drainPeer {
	t.Helper()
	var peers []*drainPeer
	for i := range n {
		p := &drainPeer{fakePeer: hub.connect(1<<16, nil)}
		hello := goawayHello
		if i%2 == 1 {
			hello = `{"type":"hub:hello","id":"1"}`
		}
		require.NoError(t, p.WriteMessage(gorilla.TextMessage, []byte(hello)))
		require.Equal(t, "ack", readJSON(t, p.fakePeer)["type"])
		peers = append(peers, p)
	}
	return peers
}

// watchAll watches all peers and returns a function that waits for their ends.
func watchAll(peers []*drainPeer, obey bool) (wait func()) {
	begin := time.Now()
	var watching sync.WaitGroup
	for _, p := range peers {
		watching.Go(func() { p.watch(begin, obey) })
	}
	return watching.Wait
}

func TestDrainSpreadsClients(t *testing.T) {
	t.Parallel()
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runFake(t, p, websocket.DefaultConfig, subscribeAll("news"))
			const n, slot = 40, 250 * time.Millisecond
			peers := connectDrainPeers(t, hub, n)
			wait := watchAll(peers, true)
			begin := time.Now()
			go func() { // during the drain the hub works as before
				time.Sleep(slot / 2)
				for i := range 9 {
					_ = hub.PublishToChannelRaw("news", []byte(fmt.Sprint(i)))
					time.Sleep(time.Second)
				}
			}()
			result, err := hub.Drain(t.Context(), websocket.DrainOptions{Window: n * slot})
			require.NoError(t, err)
			require.Equal(t, websocket.DrainResult{Clients: n, Left: n / 2, Closed: n / 2}, result)
			wait()
			var ends []time.Duration
			for i, p := range peers {
				ends = append(ends, p.ended)
				if i%2 == 0 {
					require.Zero(t, p.toldAt, "told at the beginning")
					require.Equal(t, p.told, p.ended)
					require.Zero(t, p.code)
				} else {
					require.EqualValues(t, -1, p.told, "the client has not said that it understands hub:goaway")
					require.Equal(t, "1012 hub is draining", fmt.Sprint(p.code, " ", p.reason))
				}
				require.Len(t, p.data, int(min((p.ended+time.Second-slot/2)/time.Second, 9)), "the client has not got what was published before")
			}
			slices.Sort(ends)
			for i, at := range ends {
				require.Equal(t, time.Duration(i)*slot, at)
			}
			require.Equal(t, (n-1)*slot, time.Since(begin), "Drain ends with the last client")
			require.Equal(t, 0, hub.Stats().ActiveConnections)
			hub.raw(handshakeOf()).requireBusy("hub is draining")
			start := time.Now()
			hub.stop()
			require.Equal(t, start, time.Now(), "nothing is left to do")
		})
	})
}

// A peer that was told its slot and does not leave is closed two seconds after it.
func TestDrainClosesThoseWhoStay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hub := runFake(t, paths[0], websocket.DefaultConfig)
		peers := connectDrainPeers(t, hub, 20)
		wait := watchAll(peers, false)
		result, err := hub.Drain(t.Context(), websocket.DrainOptions{})
		require.NoError(t, err)
		require.Equal(t, websocket.DrainResult{Clients: 20, Closed: 20}, result)
		wait()
		var slots []time.Duration
		for i, p := range peers {
			require.Equal(t, websocket.CloseServiceRestart, p.code)
			slot := p.ended
			if i%2 == 0 {
				require.Equal(t, p.told+2*time.Second, p.ended)
				slot = p.told
			}
			slots = append(slots, slot)
		}
		slices.Sort(slots)
		for i, at := range slots {
			require.Equal(t, time.Duration(i)*500*time.Millisecond, at, "the default window is 10 s")
		}
		hub.stop()
	})
}

// A peer that reads nothing is aborted DrainTimeout after the last slot.
func TestDrainCutsThoseWhoDoNotRead(t *testing.T) {
	t.Parallel()
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runFake(t, p, websocket.DefaultConfig, subscribeAll("news"))
			peer := hub.connect(300, nil)
			require.NoError(t, hub.PublishToChannelRaw("news", numbered(0, 2000)))
			start := time.Now()
			result, err := hub.Drain(t.Context(), websocket.DrainOptions{Window: time.Second, Delay: 3 * time.Second})
			require.NoError(t, err)
			require.Equal(t, websocket.DrainResult{Clients: 1, Cut: 1}, result)
			require.Equal(t, 8*time.Second, time.Since(start))
			_ = peer.Close()
			hub.stop()
		})
	})
}

// The drain belongs to the hub: the end of a caller's context does not end it.
func TestDrainWhoseContextEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hub := runFake(t, paths[0], websocket.DefaultConfig)
		wait := watchAll(connectDrainPeers(t, hub, 10), true)
		ctx, cancel := context.WithTimeout(t.Context(), 4500*time.Millisecond)
		defer cancel()
		result, err := hub.Drain(ctx, websocket.DrainOptions{Window: 10 * time.Second})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 5, result.Left+result.Closed)
		require.Equal(t, 5, result.Remaining)
		require.Equal(t, 10, result.Clients)

		start := time.Now()
		second, err := hub.Drain(t.Context(), websocket.DrainOptions{Window: time.Hour})
		require.NoError(t, err)
		require.Equal(t, websocket.DrainResult{Clients: 10, Left: 5, Closed: 5}, second)
		require.Equal(t, 4500*time.Millisecond, time.Since(start))
		third, err := hub.Drain(ctx, websocket.DrainOptions{})
		if err != nil { // both the drain and the context have ended
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		require.Equal(t, second, third)
		wait()
		hub.stop()
	})
}

func TestShutdownEndsDrain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hub := runFake(t, paths[0], websocket.DefaultConfig)
		peers := connectDrainPeers(t, hub, 10)
		wait := watchAll(peers, true)
		start := time.Now()
		type outcome struct {
			websocket.DrainResult
			err error
		}
		drained := make(chan outcome, 1)
		go func() {
			result, err := hub.Drain(context.Background(), websocket.DrainOptions{Window: 10 * time.Second})
			drained <- outcome{result, err}
		}()
		time.Sleep(3500 * time.Millisecond)
		hub.stop()
		require.Equal(t, 3500*time.Millisecond, time.Since(start), "Shutdown closes the rest at once")
		o := <-drained
		require.ErrorIs(t, o.err, websocket.ErrHubClosed)
		require.Equal(t, 10, o.Clients)
		require.Equal(t, 10, o.Left+o.Closed+o.Remaining, "%+v", o)
		wait()
		codes := map[int]int{}
		for _, p := range peers {
			codes[p.code]++
		}
		require.Equal(t, 6, codes[websocket.CloseGoingAway], "%v", codes)
		_, err := hub.Drain(t.Context(), websocket.DrainOptions{})
		require.ErrorIs(t, err, websocket.ErrHubClosed)
	})
}

func TestDrainWithoutClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := websocket.NewHub(quietLogger{}, websocket.DefaultConfig)
		_, err := h.Drain(t.Context(), websocket.DrainOptions{})
		require.ErrorIs(t, err, websocket.ErrHubNotRunning)
		require.NoError(t, h.Shutdown(t.Context()))

		hub := runFake(t, paths[0], websocket.DefaultConfig)
		start := time.Now()
		for range 2 {
			result, err := hub.Drain(t.Context(), websocket.DrainOptions{Window: time.Hour})
			require.NoError(t, err)
			require.Zero(t, result)
		}
		require.Equal(t, start, time.Now())
		hub.stop()
	})
}

// A handshake that is under way when the drain begins is refused, or its client is closed.
func TestHandshakeDuringDrain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{}) // the test closes, the hook receives
		config := websocket.DefaultConfig
		config.ClientID = func(*http.Request) (string, error) { <-gate; return "", nil }
		hub := runFake(t, paths[0], config)
		peer := make(chan *rawPeer, 1)
		go func() { peer <- hub.raw(handshakeOf()) }()
		synctest.Wait()
		drained := make(chan websocket.DrainResult, 1)
		go func() {
			result, err := hub.Drain(context.Background(), websocket.DrainOptions{})
			if err != nil {
				result.Remaining = -1
			}
			drained <- result
		}()
		synctest.Wait()
		require.Empty(t, drained, "Drain waits for the handshake")
		close(gate)
		(<-peer).requireBusy("hub is draining")
		require.Zero(t, <-drained)
		hub.stop()
	})
}

// A client whose handshake response is written while the drain begins has no slot.
func TestHandshakeResponseReadDuringDrain(t *testing.T) {
	t.Parallel()
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runFake(t, p, websocket.DefaultConfig, subscribeAll("news"))
			server, client := testnet.Pair(1 << 16)
			defer client.Close()
			server.SetWindow(20) // less than the response
			served := hub.accept(server)
			_, err := client.Write([]byte(handshakeRequest))
			require.NoError(t, err)
			synctest.Wait()
			start := time.Now()
			time.AfterFunc(3*time.Second, func() { server.SetWindow(1 << 16) })
			result, err := hub.Drain(t.Context(), websocket.DrainOptions{})
			require.NoError(t, err)
			require.Zero(t, result, "it was no client when the drain began")
			require.LessOrEqual(t, time.Since(start), 4*time.Second, "the peer has a second to answer the Close frame")
			<-served
			reader := bufio.NewReader(client)
			response, err := http.ReadResponse(reader, nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
			frame, err := io.ReadAll(reader)
			require.NoError(t, err)
			require.Equal(t, "\x88\x11\x03\xf4hub is draining", string(frame))
			hub.stop()
		})
	})
}

// Shutdown closes many clients one after the other, and a few at once.
func TestShutdownSpreadsCloses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		clients int
		drain   time.Duration // DrainTimeout
		last    time.Duration // when the last client is closed
	}{
		{256, 5 * time.Second, 0},
		{500, 5 * time.Second, 499 * time.Millisecond},
		{500, 400 * time.Millisecond, 199600 * time.Microsecond},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.clients, tt.drain), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := websocket.DefaultConfig
				config.DrainTimeout = tt.drain
				hub := runFake(t, paths[0], config)
				peers := connectDrainPeers(t, hub, tt.clients)
				wait := watchAll(peers, true)
				start := time.Now()
				hub.stop()
				took := time.Since(start)
				require.GreaterOrEqual(t, took, tt.last)
				require.LessOrEqual(t, took, tt.last+5*time.Millisecond)
				wait()
				at := map[time.Duration]int{}
				for _, p := range peers {
					require.Equal(t, websocket.CloseGoingAway, p.code)
					require.EqualValues(t, -1, p.told)
					at[p.ended.Truncate(50*time.Millisecond)]++
				}
				if tt.last > 0 {
					even := float64(tt.clients) / float64(tt.last/(50*time.Millisecond)+1)
					for bucket, n := range at {
						require.LessOrEqual(t, float64(n), 1.3*even, bucket)
					}
				} else {
					require.Len(t, at, 1)
				}
			})
		})
	}
}

// Clients that a shutdown has not closed yet are served.
func TestShutdownServesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.ClientID = queryID
		hub := runFake(t, paths[0], config)
		connectDrainPeers(t, hub, 500)
		go hub.stop() // ends with the shutdown
		time.Sleep(100 * time.Millisecond)
		served := 0
		for c := range hub.Clients() {
			require.NoError(t, c.Send(&websocket.Message{Type: "news", Data: []byte(`1`)}))
			served++
		}
		require.Greater(t, served, 300)
	})
}

func TestDrainNamesCallbacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		gate := make(chan struct{})
		config.OnMessage = func(*websocket.Client, *websocket.Message) { <-gate }
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		defer close(gate)
		p := hub.connect(1<<16, nil)
		defer p.Close()
		send(t, p, `{"type":"mine"}`)
		synctest.Wait()
		_, err := hub.Drain(t.Context(), websocket.DrainOptions{Window: time.Second})
		var stuck *websocket.CallbackTimeoutError
		require.ErrorAs(t, err, &stuck)
		require.Len(t, stuck.Callbacks, 1)
	})
}
