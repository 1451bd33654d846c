package websocket_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// keep returns a config whose channels and rooms keep history.
func keep(options websocket.HistoryOptions) websocket.Config {
	config := websocket.DefaultConfig
	config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
		return websocket.TopicOptions{History: options}
	}
	return config
}

// keepChannel returns a config in which one channel keeps a number of publications.
func keepChannel(channel string, messages int) websocket.Config {
	config := websocket.DefaultConfig
	config.TopicOptions = func(_ websocket.TopicKind, name string) (options websocket.TopicOptions) {
		if name == channel {
			options.History.Messages = messages
		}
		return options
	}
	return config
}

func publishNumbers(t *testing.T, hub *fakeHub, channel string, from, to int) {
	t.Helper()
	for n := from; n <= to; n++ {
		require.NoError(t, hub.PublishToChannelRaw(channel, fmt.Append(nil, n)))
	}
}

// request sends a message and returns the data of its ack.
func request(t *testing.T, p *fakePeer, typ, data string) map[string]any {
	t.Helper()
	require.NoError(t, p.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"type":%q,"id":"q","data":%s}`, typ, data)))
	m := readJSON(t, p)
	require.Equal(t, "ack", m["type"], "%v", m)
	answer, _ := m["data"].(map[string]any)
	return answer
}

// requireNumbers reads publications with these offsets, whose payloads are the same.
func requireNumbers(t *testing.T, p *fakePeer, from, to int) {
	t.Helper()
	for n := from; n <= to; n++ {
		m := readJSON(t, p)
		require.EqualValues(t, n, m["data"], "%v", m)
		require.EqualValues(t, n, m["offset"], "%v", m)
	}
}

// step runs a part of a test. A bubble cannot have subtests.
func step(t *testing.T, name string, f func()) {
	t.Helper()
	t.Log(name)
	f()
}

// inHistoryHub runs a test with a hub in a bubble.
func inHistoryHub(t *testing.T, config websocket.Config, f func(t *testing.T, hub *fakeHub)) {
	t.Helper()
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runFake(t, p, config)
			synctest.Wait()
			f(t, hub)
			hub.stop()
		})
	})
}

func TestResume(t *testing.T) {
	inHistoryHub(t, keep(websocket.HistoryOptions{Messages: 10}), func(t *testing.T, hub *fakeHub) {
		first := hub.connect(1<<16, nil)
		ack := request(t, first, "subscribe", `{"channel":"news"}`)
		require.EqualValues(t, 0, ack["offset"])
		require.Equal(t, true, ack["complete"])
		epoch := ack["epoch"].(string)
		publishNumbers(t, hub, "news", 1, 3)
		requireNumbers(t, first, 1, 3)
		require.NoError(t, first.Close())
		publishNumbers(t, hub, "news", 4, 8)

		since := func(offset int) string {
			return fmt.Sprintf(`{"channel":"news","since":{"epoch":%q,"offset":%d}}`, epoch, offset)
		}
		step(t, "complete", func() {
			p := hub.connect(1<<16, nil)
			require.Equal(t, map[string]any{"epoch": epoch, "offset": 8.0, "replayed": 5.0, "complete": true}, request(t, p, "subscribe", since(3)))
			requireNumbers(t, p, 4, 8)
			require.NoError(t, p.Close())
		})
		step(t, "nothing missed", func() {
			p := hub.connect(1<<16, nil)
			require.EqualValues(t, 0, request(t, p, "subscribe", since(8))["replayed"])
			publishNumbers(t, hub, "news", 9, 9)
			requireNumbers(t, p, 9, 9)
			require.NoError(t, p.Close())
		})
		publishNumbers(t, hub, "news", 10, 15)
		step(t, "expired", func() {
			p := hub.connect(1<<16, nil)
			ack := request(t, p, "subscribe", since(3))
			require.Equal(t, map[string]any{"epoch": epoch, "offset": 15.0, "replayed": 10.0, "complete": false, "reason": "expired"}, ack)
			gap := readJSON(t, p)
			require.Equal(t, "gap", gap["type"])
			require.EqualValues(t, 2, gap["data"].(map[string]any)["count"])
			require.Equal(t, "history", gap["data"].(map[string]any)["reason"])
			requireNumbers(t, p, 6, 15)
			require.NoError(t, p.Close())
		})
		step(t, "epoch", func() {
			p := hub.connect(1<<16, nil)
			ack := request(t, p, "subscribe", `{"channel":"news","since":{"epoch":"other","offset":14}}`)
			require.Equal(t, "epoch", ack["reason"])
			require.Equal(t, false, ack["complete"])
			gap := readJSON(t, p)
			require.EqualValues(t, 0, gap["data"].(map[string]any)["count"])
			requireNumbers(t, p, 6, 15)
			require.NoError(t, p.Close())
		})
		step(t, "from the future", func() {
			p := hub.connect(1<<16, nil)
			require.Equal(t, "epoch", request(t, p, "subscribe", since(99))["reason"])
			require.NoError(t, p.Close())
		})
		step(t, "last", func() {
			p := hub.connect(1<<16, nil)
			require.EqualValues(t, 2, request(t, p, "subscribe", `{"channel":"news","last":2}`)["replayed"])
			requireNumbers(t, p, 14, 15)
			require.NoError(t, p.Close())
		})
		step(t, "again on one connection", func() {
			p := hub.connect(1<<16, nil)
			request(t, p, "subscribe", since(15))
			request(t, p, "unsubscribe", `{"channel":"news"}`)
			publishNumbers(t, hub, "news", 16, 17)
			require.EqualValues(t, 2, request(t, p, "subscribe", since(15))["replayed"])
			requireNumbers(t, p, 16, 17)
			require.NoError(t, p.Close())
		})
		step(t, "malformed", func() {
			p := hub.connect(1<<16, nil)
			for _, data := range []string{`{"channel":"news","since":3}`, `{"channel":"news","last":-1}`, `{"channel":"news","since":{"epoch":1}}`} {
				require.NoError(t, p.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"type":"subscribe","id":"q","data":%s}`, data)))
				m := readJSON(t, p)
				require.Equal(t, "error", m["type"])
				require.Equal(t, "bad_request", m["data"].(map[string]any)["code"])
			}
			require.NoError(t, p.Close())
		})
	})
}

// TestReplyAndReplayAreOneWrite also comes back over connections that accept only a part of
// that write.
func TestReplyAndReplayAreOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := runFake(t, paths[0], keep(websocket.HistoryOptions{Messages: 100}))
		defer hub.stop()
		member := hub.connect(1<<16, nil)
		epoch := request(t, member, "subscribe", `{"channel":"news"}`)["epoch"]
		publishNumbers(t, hub, "news", 1, 60)
		requireNumbers(t, member, 1, 60)
		for _, accepts := range []int{1 << 16, 1000, 200, 20, 1, 0} {
			p := hub.connect(1<<16, nil)
			p.server.Faults().Short(accepts)
			before := p.server.Faults().Writes.Load()
			if accepts == 0 {
				p.server.SetWindow(0)
				time.AfterFunc(time.Second, func() { p.server.SetWindow(1 << 16) })
			}
			ack := request(t, p, "subscribe", fmt.Sprintf(`{"channel":"news","since":{"epoch":%q,"offset":10}}`, epoch))
			require.EqualValues(t, 50, ack["replayed"])
			if accepts == 1<<16 {
				require.EqualValues(t, 1, p.server.Faults().Writes.Load()-before)
			}
			requireNumbers(t, p, 11, 60)
			require.NoError(t, p.Close())
		}
		require.NoError(t, member.Close())
	})
}

func TestResumeWithoutHistory(t *testing.T) {
	inHistoryHub(t, websocket.DefaultConfig, func(t *testing.T, hub *fakeHub) {
		p := hub.connect(1<<16, nil)
		ack := request(t, p, "subscribe", `{"channel":"news","since":{"epoch":"e","offset":3}}`)
		require.Equal(t, "none", ack["reason"])
		require.Equal(t, false, ack["complete"])
		require.Equal(t, "gap", readJSON(t, p)["type"])
		require.NoError(t, p.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","id":"q","data":{"channel":"other"}}`)))
		require.Nil(t, readJSON(t, p)["data"], "an ack without a resume is as before")
		require.NoError(t, p.Close())
	})
}

func TestSubscribeSince(t *testing.T) {
	inHistoryHub(t, keep(websocket.HistoryOptions{Messages: 10}), func(t *testing.T, hub *fakeHub) {
		publishNumbers(t, hub, "news", 1, 4)
		p := hub.connect(1<<16, nil)
		client := onlyClient(t, hub)
		outcome, err := client.SubscribeSince(t.Context(), "news", websocket.Position{})
		require.NoError(t, err)
		require.EqualValues(t, 4, outcome.Offset)
		require.Equal(t, 4, outcome.Replayed)
		require.True(t, outcome.Complete)
		requireNumbers(t, p, 1, 4)
		require.NoError(t, p.Close())
		synctest.Wait()
		_, err = client.SubscribeSince(t.Context(), "news", websocket.Position{})
		require.ErrorIs(t, err, websocket.ErrClientClosed)
	})
}

// TestReplayLargerThanBacklog replays a hundred times what the backlog holds.
func TestReplayLargerThanBacklog(t *testing.T) {
	config := keep(websocket.HistoryOptions{Messages: 10_000})
	config.ClientBacklog, config.MaxMessageSize = 4_000, 1_000
	inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
		publishNumbers(t, hub, "news", 1, 3000)
		p := hub.connect(1024, nil)
		require.EqualValues(t, 3000, request(t, p, "subscribe", `{"channel":"news","last":10000}`)["replayed"])
		publishNumbers(t, hub, "news", 3001, 3010)
		requireNumbers(t, p, 1, 3010)
		require.Zero(t, hub.Stats().Dropped.Total())
		require.NoError(t, p.Close())
	})
}

// A member that asks for fewer publications than it is being sent gets all of them.
func TestLaterResumeLosesNothing(t *testing.T) {
	config := keep(websocket.HistoryOptions{Messages: 10_000})
	config.ClientBacklog, config.MaxMessageSize = 4_000, 1_000
	inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
		publishNumbers(t, hub, "news", 1, 3000)
		p := hub.connect(1024, nil)
		request(t, p, "subscribe", `{"channel":"news","last":3000}`)
		synctest.Wait()
		require.NoError(t, p.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","id":"q","data":{"channel":"news","last":1}}`)))
		synctest.Wait()
		for n := 1; n <= 3000; {
			if m := readJSON(t, p); m["type"] != "ack" {
				require.EqualValues(t, n, m["offset"], "%v", m)
				n++
			}
		}
		require.NoError(t, p.Close())
	})
}

// TestSlowMemberIsFedFromHistory publishes to a member that does not read. It is not
// evicted, and gets all that the history keeps behind a gap with an exact count.
func TestSlowMemberIsFedFromHistory(t *testing.T) {
	for _, policy := range []websocket.SlowConsumerPolicy{websocket.EvictSlow, websocket.DropOldest, websocket.DropNewest} {
		config := keep(websocket.HistoryOptions{Messages: 500})
		config.ClientBacklog, config.MaxMessageSize, config.SlowConsumer = 8_000, 1_000, policy
		config.WriteWait = time.Hour
		inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
			p := hub.connect(2048, nil)
			request(t, p, "subscribe", `{"channel":"news"}`)
			publishNumbers(t, hub, "news", 1, 400)
			synctest.Wait()
			requireNumbers(t, p, 1, 200)
			publishNumbers(t, hub, "news", 401, 2000)
			synctest.Wait()
			at, lost := 200, 0
			for at < 2000 {
				m := readJSON(t, p)
				if m["type"] == "gap" {
					require.Equal(t, "history", m["data"].(map[string]any)["reason"])
					count := int(m["data"].(map[string]any)["count"].(float64))
					lost += count
					at += count
					continue
				}
				at++
				require.EqualValues(t, at, m["offset"])
			}
			require.Positive(t, lost)
			require.EqualValues(t, lost, hub.Stats().Dropped.History)
			publishNumbers(t, hub, "news", 2001, 2003)
			requireNumbers(t, p, 2001, 2003)
			require.NoError(t, p.Close())
		})
	}
}

func TestPublishingOnceByKey(t *testing.T) {
	inHistoryHub(t, keep(websocket.HistoryOptions{Messages: 2}), func(t *testing.T, hub *fakeHub) {
		p := hub.connect(1<<16, nil)
		request(t, p, "subscribe", `{"channel":"news"}`)
		publish := func(key string, n int) int {
			require.NoError(t, p.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"type":"publish","channel":"news","id":"q","key":%q,"data":%d}`, key, n)))
			for {
				m := readJSON(t, p)
				if m["type"] == "ack" {
					return int(m["data"].(map[string]any)["offset"].(float64))
				}
				if key != "" {
					require.Equal(t, key, m["key"])
				}
				require.EqualValues(t, n, m["data"])
			}
		}
		require.Equal(t, 1, publish("a", 1))
		require.Equal(t, 1, publish("a", 2), "the first publication with the key")
		require.Equal(t, 2, publish("b", 3))
		require.Equal(t, 1, publish("a", 4))
		require.Equal(t, 3, publish("", 5))
		require.Equal(t, 4, publish("a", 6), "the first one is not kept any more")
		require.NoError(t, p.Close())
	})
}

// TestKeysBelongToUsers publishes with one key as several users.
func TestKeysBelongToUsers(t *testing.T) {
	config := keep(websocket.HistoryOptions{Messages: 10})
	config.OnConnect = func(c *websocket.Client) { c.SetUser(c.Request().Header.Get("User")) }
	inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
		publish := func(user, key string) int {
			p := hub.connect(1<<16, http.Header{"User": {user}})
			require.NoError(t, p.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"type":"publish","channel":"news","id":"q","key":%q}`, key)))
			m := readJSON(t, p)
			require.Equal(t, "ack", m["type"], "%v", m)
			require.NoError(t, p.Close())
			return int(m["data"].(map[string]any)["offset"].(float64))
		}
		require.NoError(t, hub.PublishToChannel("news", &websocket.Message{Key: "k", ClientID: "a"}))
		require.Equal(t, 2, publish("a", "k"), "the server has published with the key")
		require.Equal(t, 3, publish("b", "k"))
		require.Equal(t, 4, publish("", "k"))
		require.Equal(t, 5, publish("a", "bk"))
		require.Equal(t, 6, publish("ab", "k"))
		require.Equal(t, 2, publish("a", "k"), "over another connection")
		require.Equal(t, 4, publish("", "k"), "clients without a user are one")
		require.NoError(t, hub.PublishToChannel("news", &websocket.Message{Key: "k", ClientID: "b"}))
		page, err := hub.History(t.Context(), websocket.ChannelTopic, "news", websocket.HistoryQuery{})
		require.NoError(t, err)
		require.EqualValues(t, 6, page.Offset, "the server has published with the key")
	})
}

// TestPublishedRequest asks whether a publication with a key has reached the topic.
func TestPublishedRequest(t *testing.T) {
	config := keep(websocket.HistoryOptions{Messages: 2, Age: time.Hour})
	options := config.TopicOptions
	config.TopicOptions = func(kind websocket.TopicKind, name string) websocket.TopicOptions {
		o := options(kind, name)
		o.Conflate = name == "prices"
		return o
	}
	config.OnConnect = func(c *websocket.Client) { c.SetUser(c.Request().Header.Get("User")) }
	inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
		a, b := hub.connect(1<<16, http.Header{"User": {"a"}}), hub.connect(1<<16, http.Header{"User": {"b"}})
		publish := func(topic, key string) map[string]any {
			require.NoError(t, a.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"type":"publish","channel":%q,"id":"q","key":%q}`, topic, key)))
			return readJSON(t, a)["data"].(map[string]any)
		}
		ask := func(p *fakePeer, topic, key string, since map[string]any) string {
			answer := request(t, p, "hub:published", fmt.Sprintf(`{%s,"key":%q,"since":{"epoch":%q,"offset":%v}}`, topic, key, since["epoch"], since["offset"]))
			return fmt.Sprint(answer["published"], " ", answer["complete"])
		}
		first := publish("news", "1")
		require.Equal(t, "true true", ask(a, `"channel":"news"`, "1", first))
		require.Equal(t, "false true", ask(a, `"channel":"news"`, "2", first))
		require.Equal(t, "false true", ask(b, `"channel":"news"`, "1", first), "a key of another user")
		publish("news", "2")
		publish("news", "3")
		require.Equal(t, "false true", ask(a, `"channel":"news"`, "4", first), "the history has everything behind the position")
		publish("news", "4")
		require.Equal(t, "true true", ask(a, `"channel":"news"`, "4", first))
		require.Equal(t, "false false", ask(a, `"channel":"news"`, "2", first), "it is forgotten")
		require.Equal(t, "false false", ask(a, `"channel":"news"`, "5", map[string]any{"epoch": "other", "offset": 9}))
		require.Equal(t, "false true", ask(a, `"room_id":"news"`, "5", map[string]any{"epoch": first["epoch"], "offset": 0}), "nothing was ever published there")
		require.Equal(t, "false false", ask(a, `"channel":"prices"`, "1", publish("prices", "1")), "keys are values there")
		for _, data := range []string{`{}`, `3`, `{"channel":"a"}`, `{"channel":"a","room_id":"b","key":"k","since":{"epoch":"e"}}`, `{"channel":"a","key":"k"}`, `{"channel":"a","since":{"epoch":"e"}}`} {
			require.NoError(t, a.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"type":"hub:published","id":"q","data":%s}`, data)))
			m := readJSON(t, a)
			require.Equal(t, "error", m["type"], data)
			require.Equal(t, "bad_request", m["data"].(map[string]any)["code"])
		}
		go keepAlive(a) // ends with the connection
		require.NoError(t, b.Close())
		time.Sleep(2 * time.Hour)
		require.NoError(t, a.Close())
		a = hub.connect(1<<16, http.Header{"User": {"a"}})
		require.Equal(t, "false false", ask(a, `"channel":"news"`, "5", first), "the topic is forgotten")
		require.NoError(t, a.Close())
	})
}

func TestHistoryPages(t *testing.T) {
	config := keep(websocket.HistoryOptions{Messages: 100})
	config.MaxMessageSize = 2_000
	inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
		publishNumbers(t, hub, "news", 1, 120)
		offsets := func(page websocket.HistoryPage) (all []uint64) {
			for _, m := range page.Messages {
				require.Equal(t, fmt.Sprint(m.Offset), string(m.Data))
				all = append(all, m.Offset)
			}
			return all
		}
		history := func(q websocket.HistoryQuery) websocket.HistoryPage {
			page, err := hub.History(context.Background(), websocket.ChannelTopic, "news", q)
			require.NoError(t, err)
			require.EqualValues(t, 120, page.Offset)
			return page
		}
		latest := history(websocket.HistoryQuery{Limit: 3})
		require.Equal(t, []uint64{118, 119, 120}, offsets(latest))
		require.Equal(t, []uint64{115, 116, 117}, offsets(history(websocket.HistoryQuery{Before: 118, Limit: 3})))
		at := latest.Position
		at.Offset = 100
		require.Equal(t, []uint64{101, 102}, offsets(history(websocket.HistoryQuery{Since: at, Limit: 2})))
		at.Offset = 5
		page := history(websocket.HistoryQuery{Since: at, Limit: 1})
		require.Equal(t, []uint64{21}, offsets(page))
		require.False(t, page.Complete)
		require.Equal(t, "expired", page.Reason)
		_, err := hub.History(context.Background(), websocket.ChannelTopic, "news", websocket.HistoryQuery{Limit: -1})
		require.ErrorContains(t, err, "Limit")
		none, err := hub.History(context.Background(), websocket.RoomTopic, "news", websocket.HistoryQuery{})
		require.NoError(t, err)
		require.Equal(t, "none", none.Reason)

		p := hub.connect(1<<16, nil)
		require.NoError(t, p.WriteMessage(websocket.TextMessage, []byte(`{"type":"hub:history","id":"q","data":{"channel":"news","limit":-1}}`)))
		require.Equal(t, "bad_request", readJSON(t, p)["data"].(map[string]any)["code"])
		require.NoError(t, p.WriteMessage(websocket.TextMessage, []byte(`{"type":"hub:history","id":"q","data":{"channel":"news"}}`)))
		require.Equal(t, "forbidden", readJSON(t, p)["data"].(map[string]any)["code"], "no member")
		request(t, p, "subscribe", `{"channel":"news"}`)
		var got []float64
		for before := 0.0; len(got) < 100; {
			answer := request(t, p, "hub:history", fmt.Sprintf(`{"channel":"news","before":%v}`, before))
			messages := answer["messages"].([]any)
			require.NotEmpty(t, messages)
			var page []float64
			for _, m := range messages {
				page = append(page, m.(map[string]any)["offset"].(float64))
			}
			got = append(page, got...)
			before = page[0]
		}
		for i, offset := range got {
			require.Equal(t, 21+i, int(offset))
		}
		require.NoError(t, p.Close())
	})
}

// TestHistoryAge lets publications and then the topic grow old.
func TestHistoryAge(t *testing.T) {
	inHistoryHub(t, keep(websocket.HistoryOptions{Age: time.Minute}), func(t *testing.T, hub *fakeHub) {
		publishNumbers(t, hub, "news", 1, 3)
		time.Sleep(40 * time.Second)
		publishNumbers(t, hub, "news", 4, 4)
		require.Empty(t, channelsOf(hub.Hub), "a topic without members is not listed")
		time.Sleep(30 * time.Second)
		page, err := hub.History(t.Context(), websocket.ChannelTopic, "news", websocket.HistoryQuery{})
		require.NoError(t, err)
		require.Len(t, page.Messages, 1)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Zero(t, hub.Stats().HistoryBytes)
		require.Zero(t, hub.HeldByMessages())
		page, err = hub.History(t.Context(), websocket.ChannelTopic, "news", websocket.HistoryQuery{})
		require.NoError(t, err)
		require.Equal(t, "none", page.Reason, "the topic is forgotten")
	})
}

// TestHistoryBudget fills the histories of two topics: that of the topic that was used
// least recently goes.
func TestHistoryBudget(t *testing.T) {
	config := keep(websocket.HistoryOptions{Messages: 1000})
	config.HistoryBudget = 30_000
	inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
		publishNumbers(t, hub, "old", 1, 60)
		publishNumbers(t, hub, "new", 1, 200)
		st := hub.Stats()
		require.LessOrEqual(t, st.HistoryBytes, config.HistoryBudget)
		require.EqualValues(t, 60, st.HistoryEvicted-evictedOf(t, hub, "new"), "%+v", st)
		require.Zero(t, st.HeldBytes, "histories do not count against MemoryBudget")
	})
}

// evictedOf returns how many of the publications to a channel are not kept.
func evictedOf(t *testing.T, hub *fakeHub, channel string) uint64 {
	t.Helper()
	page, err := hub.History(t.Context(), websocket.ChannelTopic, channel, websocket.HistoryQuery{Limit: 1000})
	require.NoError(t, err)
	return page.Offset - uint64(len(page.Messages))
}

// TestHistoryOptionsPanic publishes to a topic whose options cannot be decided.
func TestHistoryOptionsPanic(t *testing.T) {
	config := websocket.DefaultConfig
	config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions { panic("broken") }
	inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
		p := hub.connect(1<<16, nil)
		require.NoError(t, p.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","id":"q","data":{"channel":"news"}}`)))
		require.Equal(t, "ack", readJSON(t, p)["type"])
		publishNumbers(t, hub, "news", 1, 1)
		require.Equal(t, "message", readJSON(t, p)["type"])
		require.NoError(t, p.Close())
	})
}

// TestKeyWithoutHistory publishes with a key where it has no meaning.
func TestKeyWithoutHistory(t *testing.T) {
	inHistoryHub(t, websocket.DefaultConfig, func(t *testing.T, hub *fakeHub) {
		p := hub.connect(1<<16, nil)
		request(t, p, "subscribe", `{"channel":"news"}`)
		for range 2 {
			require.NoError(t, p.WriteMessage(websocket.TextMessage, []byte(`{"type":"publish","channel":"news","key":"a","data":1}`)))
			m := readJSON(t, p)
			require.Equal(t, "message", m["type"])
			require.NotContains(t, m, "key")
			require.NotContains(t, m, "offset")
		}
		require.NoError(t, p.Close())
	})
}

// TestCaughtUpMemberKeepsItsBacklog fills the backlog of a member that has caught up with
// the history of one topic, with messages of another.
func TestCaughtUpMemberKeepsItsBacklog(t *testing.T) {
	for _, policy := range []websocket.SlowConsumerPolicy{websocket.EvictSlow, websocket.DropOldest, websocket.DropNewest} {
		config := websocket.DefaultConfig
		config.TopicOptions = func(_ websocket.TopicKind, name string) (options websocket.TopicOptions) {
			if name == "kept" {
				options.History.Messages = 100
			}
			return options
		}
		config.ClientBacklog, config.MaxMessageSize, config.SlowConsumer = 8_000, 1_000, policy
		config.WriteWait, config.PongWait = time.Hour, time.Hour
		inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
			publishNumbers(t, hub, "kept", 1, 4)
			p := hub.connect(1024, nil)
			request(t, p, "subscribe", `{"channel":"kept","last":4}`)
			requireNumbers(t, p, 1, 4)
			request(t, p, "subscribe", `{"channel":"plain"}`)
			for range 15 {
				require.NoError(t, hub.PublishToChannelRaw("plain", []byte(`"`+strings.Repeat("x", 270)+`"`)))
			}
			synctest.Wait()
			require.NoError(t, hub.PublishToChannelRaw("kept", []byte(`"`+strings.Repeat("y", 2400)+`"`)))
			synctest.Wait()
			require.Zero(t, hub.Stats().Dropped.Total())
			require.Zero(t, hub.Stats().Evicted)
			for range 16 {
				require.Equal(t, "message", readJSON(t, p)["type"])
			}
			require.NoError(t, p.Close())
		})
	}
}

// TestKeyGoesWithItsPublication publishes with a key again when the first publication is
// too old, but not removed yet.
func TestKeyGoesWithItsPublication(t *testing.T) {
	config := keep(websocket.HistoryOptions{Age: time.Hour})
	config.PongWait, config.PingPeriod = 10*time.Hour, 9*time.Hour
	inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
		p := hub.connect(1<<16, nil) // the topic lives as long as it has a member
		defer p.Close()
		request(t, p, "subscribe", `{"channel":"news"}`)
		publish := func() uint64 {
			require.NoError(t, hub.PublishToChannel("news", &websocket.Message{Key: "k", Data: []byte("1")}))
			page, err := hub.History(t.Context(), websocket.ChannelTopic, "news", websocket.HistoryQuery{})
			require.NoError(t, err)
			return page.Offset
		}
		publishNumbers(t, hub, "news", 1, 1)
		time.Sleep(59 * time.Minute)
		require.EqualValues(t, 2, publish())
		require.EqualValues(t, 2, publish())
		time.Sleep(time.Hour)
		require.EqualValues(t, 3, publish())
	})
}

// An encoder would replace what is not UTF-8, so that keys which differ become equal.
func TestKeysAreUTF8(t *testing.T) {
	inHistoryHub(t, keep(websocket.HistoryOptions{Messages: 10}), func(t *testing.T, hub *fakeHub) {
		m := &websocket.Message{Key: "\xff"}
		for _, err := range []error{hub.PublishToChannel("news", m), hub.PublishToRoom("news", m)} {
			require.ErrorIs(t, err, websocket.ErrMalformed)
			require.ErrorContains(t, err, "key")
		}
		require.NoError(t, hub.BroadcastMessage(m)) // it has no key
	})
}

// TestOffsetsComeFromHistories publishes what was read from a history.
func TestOffsetsComeFromHistories(t *testing.T) {
	inHistoryHub(t, websocket.DefaultConfig, func(t *testing.T, hub *fakeHub) {
		p := hub.connect(1<<16, nil)
		request(t, p, "subscribe", `{"channel":"news"}`)
		old := &websocket.Message{Data: []byte("1"), Offset: 77, Key: "k"}
		require.NoError(t, hub.PublishToChannel("news", old))
		require.NoError(t, hub.BroadcastMessage(old))
		for range 2 {
			m := readJSON(t, p)
			require.NotContains(t, m, "offset")
			require.NotContains(t, m, "key")
		}
		require.NoError(t, p.Close())
	})
}

// A channel and a room of one name have messages of one type. Those of the room say so, if it
// has a history: live, replayed and in pages.
func TestRoomOfPublications(t *testing.T) {
	for _, keeps := range [][2]bool{{true, true}, {true, false}, {false, true}} { // channel and room
		config := websocket.DefaultConfig
		config.TopicOptions = func(kind websocket.TopicKind, _ string) (options websocket.TopicOptions) {
			if keeps[kind] {
				options.History.Messages = 10
			}
			return options
		}
		inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
			p := hub.connect(1<<16, nil)
			requireRooms := func(messages ...map[string]any) {
				t.Helper()
				for _, m := range messages {
					room, _ := m["room"].(bool)
					kept := keeps[websocket.ChannelTopic]
					if m["data"] == "room" {
						kept = keeps[websocket.RoomTopic]
					}
					require.Equal(t, kept && m["data"] == "room", room, "%v", m)
					require.Equal(t, kept, m["offset"] != nil, "%v", m)
				}
			}
			request(t, p, "subscribe", `{"channel":"x"}`)
			request(t, p, "join_room", `{"room_id":"x"}`)
			requests := map[string]string{"channel": "subscribe", "room_id": "join_room"}
			for range 2 {
				require.NoError(t, hub.PublishToChannel("x", &websocket.Message{Type: "own", Data: []byte(`"channel"`), Room: true}))
				require.NoError(t, hub.PublishToRoom("x", &websocket.Message{Type: "own", Data: []byte(`"room"`), Room: true}))
				requireRooms(readJSON(t, p), readJSON(t, p))
			}
			for key, join := range requests {
				if ack := request(t, p, join, fmt.Sprintf(`{%q:"x","last":1}`, key)); ack != nil {
					requireRooms(readJSON(t, p))
				}
				page, _ := request(t, p, "hub:history", fmt.Sprintf(`{%q:"x"}`, key))["messages"].([]any)
				for _, m := range page {
					requireRooms(m.(map[string]any))
				}
			}
			for kind, keeps := range keeps {
				page, err := hub.History(t.Context(), websocket.TopicKind(kind), "x", websocket.HistoryQuery{})
				require.NoError(t, err)
				require.Equal(t, keeps, len(page.Messages) == 2)
				for _, m := range page.Messages {
					require.Equal(t, websocket.TopicKind(kind) == websocket.RoomTopic, m.Room)
				}
			}
			require.NoError(t, hub.BroadcastMessage(&websocket.Message{Room: true}))
			require.NotContains(t, readJSON(t, p), "room")
			require.NoError(t, p.Close())
		})
	}
}

// TestHistoryPageTooLarge asks for a page whose only message is too large as JSON.
func TestHistoryPageTooLarge(t *testing.T) {
	config := keep(websocket.HistoryOptions{Messages: 10})
	config.MaxMessageSize, config.LogSize, config.ClientBacklog = 8_000, 9_000, 9_000
	inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
		p := hub.connect(1<<16, nil)
		request(t, p, "subscribe", `{"channel":"news"}`)
		require.NoError(t, hub.PublishToChannelRaw("news", []byte(strings.Repeat(`\"`, 3500))))
		require.Equal(t, "message", readJSON(t, p)["type"])
		require.NoError(t, p.WriteMessage(websocket.TextMessage, []byte(`{"type":"hub:history","id":"q","data":{"channel":"news"}}`)))
		m := readJSON(t, p)
		require.Equal(t, "error", m["type"])
		require.Equal(t, "too_large", m["data"].(map[string]any)["code"])
		require.NoError(t, p.Close())
	})
}

// TestHistoryBytesAreHeld keeps small publications in what large ones have left over.
func TestHistoryBytesAreHeld(t *testing.T) {
	config := keep(websocket.HistoryOptions{})
	config.TopicOptions = func(_ websocket.TopicKind, name string) (options websocket.TopicOptions) {
		if name == "kept" {
			options.History.Messages = 1 << 20
		}
		return options
	}
	hub := websocket.NewHub(quietLogger{}, config)
	held := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := held()
	large := make([]byte, 4000)
	for range 10_000 {
		require.NoError(t, hub.PublishToChannelRaw("plain", large))
		require.NoError(t, hub.PublishToChannelRaw("kept", []byte("1")))
	}
	require.Less(t, held()-before, 2*hub.Stats().HistoryBytes)
	require.NoError(t, hub.Shutdown(t.Context()))
}

// TestPublishingDoesNotWaitForEncoding publishes while a publication that falls out of the
// history is encoded.
func TestPublishingDoesNotWaitForEncoding(t *testing.T) {
	config := keep(websocket.HistoryOptions{Messages: 1})
	var release chan struct{}
	config.Codecs = []websocket.Codec{lines{name: "lines", index: 20, opcode: websocket.BinaryMessage, fails: func(*websocket.Message) bool {
		<-release
		return false
	}}}
	config.Subprotocols = []string{"lines"}
	synctest.Test(t, func(t *testing.T) {
		release = make(chan struct{}) // of this bubble
		config.OnConnect = func(c *websocket.Client) { _ = c.Subscribe("news") }
		hub := runFake(t, paths[0], config)
		p := hub.connect(1<<16, codecHeader("lines"))
		synctest.Wait()
		publishNumbers(t, hub, "news", 1, 1)
		synctest.Wait() // the hub goroutine waits for the codec
		publishNumbers(t, hub, "news", 2, 3)
		require.NotZero(t, hub.HeldByMessages(), "the publication that is encoded")
		close(release)
		for range 3 {
			_, _, err := p.ReadMessage()
			require.NoError(t, err)
		}
		synctest.Wait()
		require.Zero(t, hub.HeldByMessages())
		require.NoError(t, p.Close())
		hub.stop()
	})
}

// TestHistoryEntryIsSmall keeps publications with keys and one encoded form.
func TestHistoryEntryIsSmall(t *testing.T) {
	if !inOwnProcess(t) {
		return
	}
	const entries = 100_000
	config := keepChannel("kept", entries)
	hub := newBenchHub(t, config, func(c *websocket.Client) { _ = c.Subscribe("kept") })
	hub.connect("json")
	data := jsonPayload(128)
	before := heapInUse()
	for i := range entries {
		require.NoError(t, hub.PublishToChannel("kept", &websocket.Message{Data: data, Key: fmt.Sprintf("%022d", i)}))
		if i%100 == 0 {
			hub.waitUntilSent()
		}
	}
	hub.waitUntilSent()
	perEntry := (heapInUse() - before) / entries
	own := int64(128 + 24 + 256) // payload, key and frame, in their size classes
	t.Log(perEntry-own, "bytes besides the message and its frame")
	require.LessOrEqual(t, perEntry-own, int64(200))
	require.InDelta(t, perEntry, hub.Stats().HistoryBytes/entries, float64(perEntry)/10, "HistoryBytes is true")
}

// TestFedPublicationIsNotSentTwice publishes while the hub goroutine encodes the reply to a
// client that joins: the cursor finds the publication in the history, before the hub
// goroutine routes it.
func TestFedPublicationIsNotSentTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		codec := lines{name: "lines", index: 20, opcode: websocket.BinaryMessage, fails: func(m *websocket.Message) bool {
			if m.Type == "ack" {
				<-release
			}
			return false
		}}
		config := keep(websocket.HistoryOptions{Messages: 10})
		config.Codecs, config.Subprotocols = []websocket.Codec{codec}, []string{"lines"}
		hub := runFake(t, paths[0], config)
		publishNumbers(t, hub, "news", 1, 3)
		p := hub.connect(1<<16, codecHeader("lines"))
		b, err := lines{}.Marshal(&websocket.Message{Type: "subscribe", ID: "q", Data: []byte(`{"channel":"news","last":3}`)})
		require.NoError(t, err)
		require.NoError(t, p.WriteMessage(websocket.BinaryMessage, b))
		synctest.Wait() // the hub goroutine encodes the ack
		publishNumbers(t, hub, "news", 4, 4)
		close(release)
		synctest.Wait()
		publishNumbers(t, hub, "news", 5, 5)
		for n := range 6 {
			_, b, err := p.ReadMessage()
			require.NoError(t, err)
			var m websocket.Message
			require.NoError(t, codec.Unmarshal(b, &m))
			if n > 0 {
				require.Equal(t, fmt.Sprint(n), string(m.Data))
			}
		}
		require.NoError(t, p.Close())
		hub.stop()
	})
}

// TestQuietTopicIsNotForgotten lets the only member of a topic come back when nothing is
// kept any more. It has missed nothing, and is told so.
func TestQuietTopicIsNotForgotten(t *testing.T) {
	config := keep(websocket.HistoryOptions{Age: time.Minute})
	config.HistoryBudget = 30_000
	inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
		visit := func(channel, since string) map[string]any {
			p := hub.connect(1<<16, nil)
			ack := request(t, p, "subscribe", fmt.Sprintf(`{"channel":%q%s}`, channel, since))
			require.NoError(t, p.Close())
			synctest.Wait()
			return ack
		}
		back := func(channel string, before map[string]any) map[string]any {
			return visit(channel, fmt.Sprintf(`,"since":{"epoch":%q,"offset":%v}`, before["epoch"], before["offset"]))
		}
		step(t, "nothing was ever published", func() {
			first := visit("quiet", "")
			time.Sleep(time.Hour)
			require.Equal(t, true, back("quiet", first)["complete"])
			require.Zero(t, hub.Stats().HistoryBytes, "an unused topic is not kept")
		})
		step(t, "all is older than the age", func() {
			publishNumbers(t, hub, "news", 1, 3)
			p := hub.connect(1<<16, nil)
			joined := request(t, p, "subscribe", `{"channel":"news"}`)
			go keepAlive(p) // ends with the connection
			time.Sleep(10 * time.Minute)
			require.NoError(t, p.Close())
			synctest.Wait()
			time.Sleep(50 * time.Second)
			require.Equal(t, true, back("news", joined)["complete"])
			time.Sleep(50 * time.Second)
			again := back("news", joined)
			require.Equal(t, true, again["complete"], "each visit begins the age anew")
			publishNumbers(t, hub, "news", 4, 4)
			require.EqualValues(t, 1, back("news", joined)["replayed"])
			time.Sleep(2 * time.Minute)
			require.Zero(t, hub.Stats().HistoryBytes)
			late := back("news", joined)
			require.Equal(t, "epoch", late["reason"], "the hub does not know any more whether something was published")
			require.Equal(t, "epoch", back("quiet", map[string]any{"epoch": joined["epoch"], "offset": 0})["reason"], "nor of any other topic")
		})
		step(t, "the budget takes an idle topic", func() {
			publishNumbers(t, hub, "idle", 1, 1)
			joined := visit("idle", "")
			time.Sleep(59 * time.Second)
			visit("idle", "")
			time.Sleep(10 * time.Second) // the publication is too old, the topic is not
			require.Equal(t, joined["epoch"], visit("idle", "")["epoch"])
			publishNumbers(t, hub, "busy", 1, 500)
			require.LessOrEqual(t, hub.Stats().HistoryBytes, int64(30_000))
			require.Equal(t, "epoch", back("idle", joined)["reason"])
		})
	})
}
