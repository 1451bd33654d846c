package websocket_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// conflated returns a config whose topics have Conflate.
func conflated(bounds websocket.HistoryOptions) websocket.Config {
	config := websocket.DefaultConfig
	config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
		return websocket.TopicOptions{History: bounds, Conflate: true}
	}
	return config
}

// publishPrices publishes numbers. A number that is a multiple of 10 has no key, and every
// other one replaces the one with the same last digit.
func publishPrices(t *testing.T, hub *fakeHub, from, to int) {
	t.Helper()
	for n := from; n <= to; n++ {
		m := &websocket.Message{Data: fmt.Append(nil, n)}
		if n%10 != 0 {
			m.Key = fmt.Sprint("s", n%10)
		}
		require.NoError(t, hub.PublishToChannel("prices", m))
	}
}

// requirePrices reads publications with these offsets, whose payloads are the same.
func requirePrices(t *testing.T, p *fakePeer, offsets ...int) {
	t.Helper()
	for _, n := range offsets {
		requireNumbers(t, p, n, n)
	}
}

func numbersFrom(from, to int) (all []int) {
	for n := from; n <= to; n++ {
		all = append(all, n)
	}
	return all
}

// TestConflateKeepsTheNewestOfEachKey joins a channel of prices in all ways.
func TestConflateKeepsTheNewestOfEachKey(t *testing.T) {
	inHistoryHub(t, conflated(websocket.HistoryOptions{}), func(t *testing.T, hub *fakeHub) {
		publishPrices(t, hub, 1, 35) // 10, 20 and 30 stay, 26 to 29, and 31 to 35
		kept := append([]int{10, 20, 26, 27, 28, 29}, numbersFrom(30, 35)...)
		page, err := hub.History(t.Context(), websocket.ChannelTopic, "prices", websocket.HistoryQuery{})
		require.NoError(t, err)
		for i, m := range page.Messages {
			require.EqualValues(t, kept[i], m.Offset)
		}
		require.Len(t, page.Messages, len(kept))
		join := func(how string, replayed ...int) {
			p := hub.connect(1<<16, nil)
			ack := request(t, p, "subscribe", fmt.Sprintf(`{"channel":"prices",%s}`, how))
			require.Equal(t, map[string]any{"epoch": page.Epoch, "offset": 35.0, "conflate": true, "replayed": float64(len(replayed)), "complete": true}, ack)
			requirePrices(t, p, replayed...)
			require.NoError(t, p.Close())
		}
		join(`"last":3`, 33, 34, 35)
		join(`"last":8`, 28, 29, 30, 31, 32, 33, 34, 35)
		join(`"last":1000`, kept...)
		join(`"since":{"epoch":"","offset":0}`, kept...)
		join(fmt.Sprintf(`"since":{"epoch":%q,"offset":1}`, page.Epoch), kept...)
		join(fmt.Sprintf(`"since":{"epoch":%q,"offset":27}`, page.Epoch), kept[4:]...)
		join(fmt.Sprintf(`"since":{"epoch":%q,"offset":35}`, page.Epoch))

		for _, q := range []struct {
			query websocket.HistoryQuery
			want  []int
		}{
			{websocket.HistoryQuery{Limit: 2}, []int{34, 35}},
			{websocket.HistoryQuery{Limit: 2, Before: 28}, []int{26, 27}},
			{websocket.HistoryQuery{Limit: 3, Before: 27}, []int{10, 20, 26}},
			{websocket.HistoryQuery{Limit: 2, Since: websocket.Position{Epoch: page.Epoch, Offset: 11}}, []int{20, 26}},
			{websocket.HistoryQuery{Before: 28, Since: websocket.Position{Epoch: page.Epoch, Offset: 26}}, []int{27}},
			{websocket.HistoryQuery{Before: 3, Since: websocket.Position{Epoch: page.Epoch, Offset: 26}}, nil},
		} {
			page, err := hub.History(t.Context(), websocket.ChannelTopic, "prices", q.query)
			require.NoError(t, err)
			var got []int
			for _, m := range page.Messages {
				got = append(got, int(m.Offset))
			}
			require.Equal(t, q.want, got, "%+v", q.query)
		}
	})
}

// TestConflateSkipsForSlowMembers publishes to a member that does not read. It gets the
// newest publication of each key, and all without a key, without a gap.
func TestConflateSkipsForSlowMembers(t *testing.T) {
	for _, policy := range []websocket.SlowConsumerPolicy{websocket.EvictSlow, websocket.DropOldest, websocket.DropNewest} {
		config := conflated(websocket.HistoryOptions{Messages: 1000})
		config.SlowConsumer, config.WriteWait = policy, time.Hour
		inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
			p := hub.connect(2048, nil)
			request(t, p, "subscribe", `{"channel":"prices"}`)
			publishPrices(t, hub, 1, 5000)
			synctest.Wait()
			newest, keyed := map[any]int{}, 0
			for at, unkeyed := 0, 0; at < 5000; {
				m := readJSON(t, p)
				require.Equal(t, "message", m["type"], "%v", m)
				offset := int(m["offset"].(float64))
				require.Greater(t, offset, at)
				if at = offset; at%10 == 0 {
					require.Equal(t, unkeyed+10, at, "those without a key are not skipped")
					unkeyed = at
				} else {
					newest[m["key"]] = at
					keyed++
				}
			}
			for digit := 1; digit <= 9; digit++ {
				require.Equal(t, 4990+digit, newest[fmt.Sprint("s", digit)])
			}
			require.Less(t, keyed, 1000, "most are skipped")
			publishPrices(t, hub, 5001, 5009)
			requirePrices(t, p, numbersFrom(5001, 5009)...)
			require.Zero(t, hub.Stats().Dropped.Total())
			require.NoError(t, p.Close())
		})
	}
}

// TestConflateLosesWhatBoundsRemove comes back when a bound has removed the newest
// publication of a key.
func TestConflateLosesWhatBoundsRemove(t *testing.T) {
	inHistoryHub(t, conflated(websocket.HistoryOptions{Messages: 5}), func(t *testing.T, hub *fakeHub) {
		publishPrices(t, hub, 1, 9)
		page, err := hub.History(t.Context(), websocket.ChannelTopic, "prices", websocket.HistoryQuery{})
		require.NoError(t, err)
		p := hub.connect(1<<16, nil)
		ack := request(t, p, "subscribe", fmt.Sprintf(`{"channel":"prices","since":{"epoch":%q,"offset":2}}`, page.Epoch))
		require.Equal(t, map[string]any{"epoch": page.Epoch, "offset": 9.0, "conflate": true, "replayed": 5.0, "complete": false, "reason": "expired"}, ack)
		gap := readJSON(t, p)
		require.Equal(t, "gap", gap["type"])
		require.EqualValues(t, 0, gap["data"].(map[string]any)["count"], "some may have been replaced since")
		requirePrices(t, p, 5, 6, 7, 8, 9)
		require.NoError(t, p.Close())
		p = hub.connect(1<<16, nil)
		ack = request(t, p, "subscribe", fmt.Sprintf(`{"channel":"prices","since":{"epoch":%q,"offset":4}}`, page.Epoch))
		require.Equal(t, true, ack["complete"], "nothing behind the position is missing")
		require.NoError(t, p.Close())
	})
}

// TestConflateFallsOutOfHistory publishes more keys than the history keeps to a member
// that does not read, and ends the membership of another one.
func TestConflateFallsOutOfHistory(t *testing.T) {
	config := conflated(websocket.HistoryOptions{Messages: 50})
	config.WriteWait = time.Hour
	synctest.Test(t, func(t *testing.T) {
		hub := runFake(t, paths[0], config) // what a writePump has taken depends on the scheduler
		p := hub.connect(2048, nil)
		request(t, p, "subscribe", `{"channel":"prices"}`)
		for n := range 1000 {
			require.NoError(t, hub.PublishToChannel("prices", &websocket.Message{Key: fmt.Sprint(n), Data: fmt.Append(nil, n+1)}))
		}
		synctest.Wait()
		gaps := 0
		for at := 0; at < 1000; {
			m := readJSON(t, p)
			if m["type"] == "gap" {
				gaps++
				require.EqualValues(t, 0, m["data"].(map[string]any)["count"])
				at = 950
				continue
			}
			at++
			require.EqualValues(t, at, m["offset"])
		}
		require.Equal(t, 1, gaps)
		require.NoError(t, p.Close())

		p = hub.connect(2048, nil)
		request(t, p, "subscribe", `{"channel":"prices"}`)
		for n := range 100 {
			require.NoError(t, hub.PublishToChannel("prices", &websocket.Message{Key: fmt.Sprint(n % 10), Data: fmt.Append(nil, n)}))
		}
		synctest.Wait()
		require.NoError(t, onlyClient(t, hub).Unsubscribe("prices"))
		require.NoError(t, onlyClient(t, hub).Send(&websocket.Message{Type: "end"}))
		for m := readJSON(t, p); m["type"] != "end"; m = readJSON(t, p) {
			if m["type"] == "gap" {
				gaps++
				require.Equal(t, "slow_consumer", m["data"].(map[string]any)["reason"])
			}
		}
		require.Equal(t, 2, gaps)
		require.NoError(t, p.Close())
		hub.stop()
	})
}

// TestConflateKeyIsNotUnique publishes with one key, as several publishers, to a member
// that reads.
func TestConflateKeyIsNotUnique(t *testing.T) {
	inHistoryHub(t, conflated(websocket.HistoryOptions{}), func(t *testing.T, hub *fakeHub) {
		p := hub.connect(1<<16, nil)
		request(t, p, "subscribe", `{"channel":"prices"}`)
		for n := 1; n <= 4; n++ {
			if n%2 == 0 {
				require.NoError(t, p.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"type":"publish","channel":"prices","key":"k","data":%d}`, n)))
			} else {
				require.NoError(t, hub.PublishToChannel("prices", &websocket.Message{Key: "k", Data: fmt.Append(nil, n)}))
			}
			requireNumbers(t, p, n, n)
		}
		page, err := hub.History(t.Context(), websocket.ChannelTopic, "prices", websocket.HistoryQuery{})
		require.NoError(t, err)
		require.Len(t, page.Messages, 1, "a client's publication replaces the server's")
		require.NoError(t, p.Close())
	})
}

// TestReplayedLeavesOwnOut comes back to a channel that the client has published to with
// except_self.
func TestReplayedLeavesOwnOut(t *testing.T) {
	for _, conflate := range []bool{false, true} {
		config := websocket.DefaultConfig
		config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
			return websocket.TopicOptions{History: websocket.HistoryOptions{Messages: 6}, Conflate: conflate}
		}
		inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
			p := hub.connect(1<<16, nil)
			publish := func(key string) {
				request(t, p, "publish", fmt.Sprintf(`1,"channel":"news","except_self":true,"key":%q`, key))
			}
			publish("a") // 1
			publishNumbers(t, hub, "news", 2, 3)
			publish("b") // 4
			publishNumbers(t, hub, "news", 5, 5)
			publish("c") // 6
			ack := request(t, p, "subscribe", `{"channel":"news","last":5}`)
			require.EqualValues(t, 3, ack["replayed"])
			requirePrices(t, p, 2, 3, 5)
			request(t, p, "unsubscribe", `{"channel":"news"}`)
			publishNumbers(t, hub, "news", 7, 7) // removes 1
			if conflate {
				publish("b") // 8 replaces 4
			} else {
				publish("d") // 8 removes 2
			}
			ack = request(t, p, "subscribe", `{"channel":"news","last":5}`)
			if conflate { // 2 3 5 6 7 8
				require.EqualValues(t, 3, ack["replayed"])
				requirePrices(t, p, 3, 5, 7)
			} else { // 3 4 5 6 7 8
				require.EqualValues(t, 2, ack["replayed"])
				requirePrices(t, p, 5, 7)
			}
			publishNumbers(t, hub, "news", 9, 9)
			requirePrices(t, p, 9)
			require.NoError(t, p.Close())
		})
	}
}
