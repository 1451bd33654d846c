package main

import (
	"fmt"
	"testing"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// TestGapsOfAnyTopic checks that a gap of all topics allows as many missing messages
// as it announces, and no more.
func TestGapsOfAnyTopic(t *testing.T) {
	for _, codec := range codecs {
		t.Run(codec.Name(), func(t *testing.T) {
			a, b := &topic{name: "a"}, &topic{name: "b", room: true}
			fresh := func() *client {
				return &client{
					server: &hubServer{}, codec: codec, results: &results{}, talkNext: map[string]int64{},
					topics: map[string]*subscription{
						"c:a": {topic: a, state: member, next: 3},
						"r:b": {topic: b, state: member, next: -1, low: 4, high: 5},
					},
				}
			}
			gap := func(c *client, g websocket.Gap) error {
				data := []byte(fmt.Sprintf(`{"all":%t,"channel":%q,"count":%d}`, g.All, g.Channel, g.Count))
				if e, ok := codec.(websocket.ControlEncoder); ok {
					data = e.EncodeGap(g)
				}
				return c.handleGap(data)
			}
			number := func(c *client, key string, n int64) error { return c.handleNumber(c.topics[key], n, key) }

			c := fresh()
			require.NoError(t, gap(c, websocket.Gap{All: true, Count: 3}))
			require.True(t, c.missedReplies)
			require.NoError(t, number(c, "c:a", 4))
			require.Error(t, number(c, "c:a", 4), "twice")
			require.NoError(t, gap(c, websocket.Gap{Channel: "a", Count: 5}))
			require.NoError(t, number(c, "c:a", 10))
			require.NoError(t, number(c, "r:b", 6))
			require.NoError(t, number(c, "c:a", 12))
			require.Error(t, number(c, "r:b", 8), "more messages are missing than announced")

			c = fresh()
			require.Error(t, number(c, "r:b", 6))
			require.NoError(t, gap(c, websocket.Gap{All: true, Count: 3}))
			require.Error(t, number(c, "r:b", 3), "from before joining")
			require.Error(t, number(c, "r:b", 9))
			require.NoError(t, number(c, "r:b", 8))
			require.Error(t, gap(c, websocket.Gap{All: true, Channel: "a", Count: 1}))

			c = fresh()
			require.NoError(t, gap(c, websocket.Gap{All: true, Count: 3}))
			a.next.Store(6)
			c.checkComplete()
			require.Empty(t, c.results.faults)
			c.topics["c:a"].next = 3
			c.checkComplete()
			require.Len(t, c.results.faults, 1, "the announced messages are attributed already")
		})
	}
}
