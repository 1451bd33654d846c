package client_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// blockedNetwork is a connection whose Reads and Writes block once dead is closed.
type blockedNetwork struct {
	net.Conn
	dead   chan struct{} // closed by the test
	closed chan struct{} // closed by Close
}

func (d *blockedNetwork) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	select {
	case <-d.dead:
		<-d.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (d *blockedNetwork) Write(b []byte) (int, error) {
	select {
	case <-d.dead:
		<-d.closed
		return 0, net.ErrClosed
	default:
		return d.Conn.Write(b)
	}
}

func (d *blockedNetwork) Close() error {
	select {
	case <-d.closed:
	default:
		close(d.closed)
	}
	return d.Conn.Close()
}

// TestHeartbeatNoticesDeadNetwork cuts the network without notice. The client notices
// it within two periods.
func TestHeartbeatNoticesDeadNetwork(t *testing.T) {
	t.Parallel()
	send := func(c *client.Client, every time.Duration) func(context.Context) {
		return func(ctx context.Context) {
			for ctx.Err() == nil {
				_ = c.Send(ctx, &websocket.Message{Type: "t"})
				time.Sleep(every)
			}
		}
	}
	for _, tt := range []struct {
		name    string
		options client.Options
		blocks  bool
		most    time.Duration
		traffic func(c *client.Client) func(context.Context)
	}{
		{"silent", client.Options{}, false, 30 * time.Second, nil},
		{"sending", client.Options{}, false, 30 * time.Second, func(c *client.Client) func(context.Context) { return send(c, time.Second) }},
		{"sending fast", client.Options{}, false, 30 * time.Second, func(c *client.Client) func(context.Context) { return send(c, 100*time.Millisecond) }},
		{"writes block", client.Options{WriteTimeout: time.Hour}, true, 30 * time.Second, func(c *client.Client) func(context.Context) { return send(c, time.Second) }},
		{"option", client.Options{Heartbeat: 2 * time.Second}, false, 4 * time.Second, nil},
		{"a call reaches its deadline", client.Options{}, false, 16 * time.Second, func(c *client.Client) func(context.Context) {
			return func(ctx context.Context) {
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				_ = c.Publish(ctx, "x", nil)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			patient := func(s *server) { s.config.PongWait, s.config.PingPeriod = 100*time.Hour, 99*time.Hour }
			for _, after := range []time.Duration{0, time.Second, 14 * time.Second, 15 * time.Second, 40 * time.Second} {
				inBubble(t, tt.options, patient, func(t *testing.T, s *server, p *pipeListener, c *client.Client, rec *recorder) {
					dead := make(chan struct{})
					rec.waitState(t, client.Connected)
					p.wrap = func(nc net.Conn) net.Conn {
						if tt.blocks {
							return &blockedNetwork{Conn: nc, dead: dead, closed: make(chan struct{})}
						}
						return &deadNetwork{Conn: nc, dead: dead}
					}
					c.Reconnect()
					rec.waitState(t, client.Connected)
					p.wrap = func(nc net.Conn) net.Conn { return nc }
					time.Sleep(after)
					require.Equal(t, client.Connected, c.State())
					close(dead)
					began := time.Now()
					ctx, cancel := context.WithCancel(t.Context())
					var traffic sync.WaitGroup
					if tt.traffic != nil {
						traffic.Go(func() { tt.traffic(c)(ctx) }) // ends with ctx
					}
					down := rec.waitState(t, client.Disconnected)
					require.LessOrEqual(t, time.Since(began), tt.most, "cut after %v", after)
					require.Equal(t, websocket.CloseTimeout, closeErrorOf(t, down.Err).Code)
					require.True(t, down.WillRetry)
					cancel()
					traffic.Wait()
					rec.waitState(t, client.Connected)
				})
			}
		})
	}
}

// slowNetwork delays everything that the hub sends.
type slowNetwork struct {
	net.Conn
	delay time.Duration
}

func (d *slowNetwork) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	time.Sleep(d.delay)
	return n, err
}

// TestHeartbeatKeepsHealthyConnections has connections that are quiet, slow, or held up by
// the hub's application. None of them is given up, and no ping is sent more often than
// once in a period.
func TestHeartbeatKeepsHealthyConnections(t *testing.T) {
	t.Parallel()
	const quietTime = 2 * time.Hour
	quiet := func(*server) {}
	for _, tt := range []struct {
		name      string
		options   client.Options
		configure func(*server)
		delay     time.Duration
	}{
		{"quiet", client.Options{}, quiet, 0},
		{"slow", client.Options{HandshakeTimeout: time.Hour, RestoreTimeout: time.Hour}, quiet, 14 * time.Second},
		{"slow onConnect", client.Options{RestoreTimeout: time.Hour}, func(s *server) { s.onConn = func(*websocket.Client) { time.Sleep(50 * time.Minute) } }, 0},
		{"short period", client.Options{Heartbeat: time.Second}, quiet, 900 * time.Millisecond},
		{"never", client.Options{Heartbeat: -1, HandshakeTimeout: time.Hour, RestoreTimeout: time.Hour}, quiet, 20 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			configure := func(s *server) {
				s.config.PongWait, s.config.PingPeriod, s.config.WriteWait = 100*time.Hour, 99*time.Hour, time.Hour
				tt.configure(s)
			}
			inBubble(t, tt.options, configure, func(t *testing.T, s *server, p *pipeListener, c *client.Client, rec *recorder) {
				rec.waitState(t, client.Connected)
				p.wrap = func(nc net.Conn) net.Conn { return &slowNetwork{nc, tt.delay} }
				c.Reconnect()
				rec.waitState(t, client.Connected)
				synctest.Wait() // the hub gets the end of the former connection
				before := s.hub.Stats().BytesReceived
				time.Sleep(quietTime)
				require.Equal(t, client.Connected, c.State())
				require.Equal(t, uint64(2), s.hub.Stats().TotalConnections)
				const ping = 6
				period := tt.options.Heartbeat
				switch {
				case period < 0:
					require.Equal(t, before, s.hub.Stats().BytesReceived)
					return
				case period == 0:
					period = 15 * time.Second
				}
				require.LessOrEqual(t, s.hub.Stats().BytesReceived-before, uint64((quietTime/period+1)*ping))
			})
		})
	}
}

// TestHeartbeatOfHub follows the figure that the hub tells.
func TestHeartbeatOfHub(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		told string
		want time.Duration
	}{
		{`{"heartbeat":4000}`, 8 * time.Second},
		{`{"heartbeat":60000}`, 120 * time.Second},
		{`{"heartbeat":9007199254740991}`, 48 * time.Hour},
		{`{"heartbeat":0}`, 30 * time.Second},
		{`{}`, 30 * time.Second},
		{`null`, 30 * time.Second},
		{`{"heartbeat":"soon"}`, 30 * time.Second},
	} {
		t.Run(tt.told, func(t *testing.T) {
			t.Parallel()
			withHubThatTells(t, tt.told, client.Options{WriteTimeout: 99 * time.Hour}, func(t *testing.T, c *client.Client, rec *recorder) {
				began := time.Now()
				require.Equal(t, websocket.CloseTimeout, closeErrorOf(t, rec.waitState(t, client.Disconnected).Err).Code)
				require.Equal(t, tt.want, time.Since(began))
			})
		})
	}
}

// A call that reaches its deadline does not end a connection on which the hub answers
// pings, and does not send more than one ping while none is answered.
func TestDeadlineOfCallOnHealthyConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPipeListener(t)
		pings, done := 0, make(chan struct{})
		p.serveHandler(func(w http.ResponseWriter, r *http.Request) {
			defer close(done)
			upgrader := gorilla.Upgrader{Subprotocols: []string{"json"}}
			ws, err := upgrader.Upgrade(w, r, nil)
			if err != nil || !replyToGreeting(ws) {
				return
			}
			ws.SetPingHandler(func(string) error {
				pings++
				time.Sleep(10 * time.Second)
				return ws.WriteControl(gorilla.PongMessage, nil, time.Time{})
			})
			for err == nil {
				_, _, err = ws.ReadMessage() // no request gets a reply
			}
			_ = ws.Close()
		})
		rec := newRecorder()
		o := rec.options(client.Options{CloseTimeout: shortCloseTimeout, WriteTimeout: time.Hour})
		o.NetDial = p.dial
		c, err := client.Dial(t.Context(), "ws://hub", o)
		require.NoError(t, err)
		time.Sleep(time.Second)
		var calls sync.WaitGroup
		for range 50 {
			calls.Go(func() { // ends with its deadline
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := c.Publish(ctx, "x", nil); !errors.Is(err, client.ErrOutcomeUnknown) {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		time.Sleep(14 * time.Second)
		require.Equal(t, client.Connected, c.State())
		require.Equal(t, 1, pings)
		_ = c.Close()
		<-c.Done()
		<-done
	})
}
