package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
)

// replays serves subscribe requests in a dialect: it replays the messages behind the
// position of the request up to number head. The first request of a connection to
// centrifuge is its connect command.
func replays(dialect string, head *atomic.Uint32) func(*websocket.Conn) {
	return func(ws *websocket.Conn) {
		for {
			_, b, err := ws.ReadMessage()
			if err != nil {
				return
			}
			var request struct {
				Connect   any
				Subscribe struct {
					Epoch  string
					Offset *uint32
				}
				Data struct {
					Since struct {
						Epoch  string
						Offset *uint32
					}
				}
			}
			if json.Unmarshal(b, &request) != nil {
				return
			}
			last, since := head.Load(), request.Data.Since
			if dialect == api.DialectCentrifuge {
				since = request.Subscribe
			}
			if request.Connect != nil {
				if ws.WriteMessage(websocket.TextMessage, []byte(`{"id":1,"connect":{}}`)) != nil {
					return
				}
				continue
			}
			first, recovered := last+1, since.Epoch == "e"
			if recovered {
				first = *since.Offset + 1
			}
			var frames [][]byte
			if dialect == api.DialectCentrifuge {
				var missed [][]byte
				for seq := first; seq <= last; seq++ {
					missed = append(missed, fmt.Appendf(nil, `{"data":%s,"offset":%d}`, msg(seq), seq))
				}
				reply := fmt.Appendf(nil, `{"id":2,"subscribe":{"epoch":"e","publications":[%s],"recovered":%v,"offset":%d}}`, bytes.Join(missed, []byte(",")), recovered, first-1)
				frames = append(frames, append([]byte("{}\n"), reply...))
			} else {
				frames = append(frames, fmt.Appendf(nil, `{"type":"ack","channel":"t0","id":"2","data":{"epoch":"e","offset":%d,"complete":%v}}`, last, recovered))
				for seq := first; seq <= last; seq++ {
					frames = append(frames, append(envelope(seq), fmt.Sprintf(`,"offset":%d}`, seq)...))
				}
			}
			if write(ws, websocket.TextMessage, frames...) != nil {
				return
			}
		}
	}
}

func TestResume(t *testing.T) {
	t.Parallel()
	for _, dialect := range []string{api.DialectEnvelope, api.DialectCentrifuge} {
		t.Run(dialect, func(t *testing.T) {
			t.Parallel()
			var head atomic.Uint32
			p := newPeer(t, websocket.Upgrader{}, replays(dialect, &head))
			f := connected(t, api.Connect{Addr: p.addr(), Dialect: dialect, Subscribe: true})
			res, err := f.subscribe(api.Subscribe{Stall: time.Second})
			require.NoError(t, err)
			require.Equal(t, uint64(3), res.Replies)
			require.Zero(t, res.Complete)
			for _, missed := range []uint32{4, 0, 2} {
				require.NoError(t, f.disconnect())
				head.Add(missed)
				require.NoError(t, f.reconnect(f.dial))
				expect := 3 * uint64(missed)
				res, err := f.subscribe(api.Subscribe{Expect: expect, Stall: time.Second})
				require.NoError(t, err)
				require.Equal(t, uint64(3), res.Replies)
				require.Equal(t, uint64(3), res.Complete)
				require.Equal(t, expect, res.Received)
				s := f.stats()
				require.Zero(t, s.Skipped+s.Disorder+s.Bad+s.Disconnected, s.Error)
			}
		})
	}
}

func TestSubscribeNeedsClientsWithPositions(t *testing.T) {
	t.Parallel()
	p := newPeer(t, websocket.Upgrader{}, discard)
	_, err := connected(t, api.Connect{Addr: p.addr()}).subscribe(api.Subscribe{Stall: time.Second})
	require.Error(t, err)
}
