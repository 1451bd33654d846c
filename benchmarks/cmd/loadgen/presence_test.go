package main

import (
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
)

func TestMembers(t *testing.T) {
	t.Parallel()
	const reply = `{"type":"ack","channel":"t0","id":"2","data":{"epoch":"e"}}`
	for _, tt := range []struct {
		dialect string
		msgs    []string
		want    api.WaveResult // of one client; Known is that of client 0
	}{
		{api.DialectEnvelope, []string{
			`{"type":"ack","channel":"t0","data":{"members":[{"client_id":"a"},{"client_id":"b"}],"count":2},"timestamp":1,"id":"3"}`,
			`{"type":"join","channel":"t0","data":{"first":true},"timestamp":1,"client_id":"c"}`,
			`{"type":"leave","channel":"t0","data":{"last":true},"timestamp":1,"client_id":"a"}`,
			`{"type":"presence_diff","channel":"t0","data":{"leaves":[{"client_id":"b"}],"joins":[{"client_id":"b"},{"client_id":"d"},{"client_id":"e"}]},"timestamp":1}`,
		}, api.WaveResult{Notices: 3, Changes: 6, Known: 4}},
		{api.DialectCentrifuge, []string{
			`{"push":{"channel":"t0","join":{"info":{"client":"a"}}}}` + "\n" + `{"push":{"channel":"t0","leave":{"info":{"client":"b"}}}}`,
			`{"push":{"channel":"t0","join":{"info":{"client":"c"}}}}`,
		}, api.WaveResult{Notices: 3, Changes: 3, Known: -1}},
	} {
		t.Run(tt.dialect, func(t *testing.T) {
			t.Parallel()
			p := newPeer(t, websocket.Upgrader{}, func(ws *websocket.Conn) {
				if tt.dialect == api.DialectCentrifuge {
					if _, _, err := ws.ReadMessage(); err != nil || write(ws, websocket.TextMessage, []byte(`{"id":1,"connect":{}}`)) != nil {
						return
					}
				}
				if _, _, err := ws.ReadMessage(); err != nil {
					return
				}
				first := []byte(reply)
				if tt.dialect == api.DialectCentrifuge {
					first = []byte(`{"id":2,"subscribe":{"epoch":"e"}}`)
				}
				frames := [][]byte{first}
				for _, m := range tt.msgs {
					frames = append(frames, []byte(m))
				}
				if write(ws, websocket.TextMessage, frames...) == nil {
					discard(ws)
				}
			})
			f := connected(t, api.Connect{Addr: p.addr(), Dialect: tt.dialect, Subscribe: true, Presence: true})
			require.NoError(t, f.disconnect())
			res, err := f.wave(api.Wave{Quiet: 300 * time.Millisecond, Limit: 10 * time.Second})
			require.NoError(t, err)
			require.Equal(t, uint64(3), res.Replies, f.stats().Error)
			require.Equal(t, 3*tt.want.Notices, res.Notices)
			require.Equal(t, tt.want.Notices, res.Most)
			require.Equal(t, 3*tt.want.Changes, res.Changes)
			require.Equal(t, tt.want.Known, res.Known)
		})
	}
}
