package nodewire_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/nodewire"
	"github.com/stretchr/testify/require"
)

// TestFormat pins the bytes: nodes of different releases share an engine.
func TestFormat(t *testing.T) {
	h := nodewire.Head{
		Node: 0x0102030405060708, Sequence: 0x1112131415161718, Kind: nodewire.KindLost,
		To: nodewire.Target{Audience: nodewire.ToRoom, Name: "x"},
	}
	require.Equal(t, "01"+"0102030405060708"+"1112131415161718"+"02"+"02"+"01"+"78", hex.EncodeToString(h.Append(nil)))
	require.Equal(t, "?name", string(nodewire.AppendHello(nil, true, "name")))
	require.Equal(t, ".name", string(nodewire.AppendHello(nil, false, "name")))
	for want, kind := range []nodewire.Kind{
		1: nodewire.KindPublication, 2: nodewire.KindLost, 3: nodewire.KindLostAll, 4: nodewire.KindHello,
		5: nodewire.KindBye, 6: nodewire.KindQuestion, 7: nodewire.KindAnswer, 8: nodewire.KindRecord, 128: nodewire.KindPeers,
	} {
		if kind != 0 {
			require.EqualValues(t, want, kind)
		}
	}
}

func TestLaterVersions(t *testing.T) {
	h := nodewire.Head{Node: 7, Sequence: 1, Kind: nodewire.KindPublication}
	payload := append(h.Append(nil), "body"...)
	for _, tt := range []struct {
		at    int
		value byte
		err   error
	}{
		{0, 2, nodewire.ErrUnknown}, {0, 31, nodewire.ErrUnknown}, {0, 32, nodewire.ErrMalformed}, {0, 0, nodewire.ErrMalformed},
		{17, 9, nodewire.ErrUnknown}, {17, 127, nodewire.ErrUnknown}, {17, 0, nodewire.ErrMalformed}, {17, 128, nil}, {17, 255, nil},
		{18, 3, nodewire.ErrMalformed},
	} {
		b := bytes.Clone(payload)
		b[tt.at] = tt.value
		got, _, err := nodewire.Parse(b)
		require.ErrorIs(t, err, tt.err)
		if errors.Is(tt.err, nodewire.ErrUnknown) {
			require.EqualValues(t, 7, got.Node)
		}
	}
}

func TestRecords(t *testing.T) {
	for _, origin := range []nodewire.Origin{{}, {Client: true, User: "user", ExceptSelf: true}} {
		b := append(nodewire.AppendRecord(nil, 7, nodewire.ToRoom, origin), "envelope"...)
		head, body, err := nodewire.Parse(b)
		require.NoError(t, err)
		require.Equal(t, nodewire.Head{Node: 7, Kind: nodewire.KindRecord, To: nodewire.Target{Audience: nodewire.ToRoom}}, head)
		got, envelope, err := nodewire.ParseRecord(body)
		require.NoError(t, err)
		require.Equal(t, origin, got)
		require.Equal(t, "envelope", string(envelope))
	}
	for _, body := range []string{"", "\x00", "\x00\x02u", "\x00\xff"} {
		_, _, err := nodewire.ParseRecord([]byte(body))
		require.ErrorIs(t, err, nodewire.ErrMalformed, "%q", body)
	}
}

func TestListsOfPeers(t *testing.T) {
	b, ok := nodewire.AppendPeers(nil, map[uint64]string{258: "x"})
	require.True(t, ok)
	require.Equal(t, []byte{0, 0, 0, 0, 0, 0, 1, 2}, b)
	peers, err := nodewire.ParsePeers(append(b, 0, 0, 0, 0, 0, 0, 0, 3))
	require.NoError(t, err)
	require.Equal(t, []uint64{258, 3}, peers)
	_, err = nodewire.ParsePeers([]byte("1234567"))
	require.ErrorIs(t, err, nodewire.ErrMalformed)
	many := map[uint64]string{}
	for i := range uint64(4097) {
		many[i] = ""
	}
	_, ok = nodewire.AppendPeers(nil, many)
	require.False(t, ok)
}

func TestTopics(t *testing.T) {
	long := strings.Repeat("x", 501)
	for _, tt := range []struct {
		target nodewire.Target
		topic  string
	}{
		{nodewire.Target{}, "b"},
		{nodewire.Target{Audience: nodewire.ToClients, Name: "b"}, "u.b"},
		{nodewire.Target{Audience: nodewire.ToChannel, Name: "news"}, "c.news"},
		{nodewire.Target{Audience: nodewire.ToRoom, Name: long[:500]}, "r." + long[:500]},
	} {
		require.Equal(t, tt.topic, tt.target.Topic())
		target, ok := nodewire.TargetOf(tt.topic)
		require.True(t, ok)
		require.Equal(t, tt.target, target)
		require.False(t, nodewire.IsHashed(tt.topic))
	}
	hashed := nodewire.Target{Audience: nodewire.ToChannel, Name: long}.Topic()
	require.True(t, strings.HasPrefix(hashed, "hc."))
	require.Len(t, hashed, len("hc.")+64)
	require.True(t, nodewire.IsHashed(hashed))
	require.NotEqual(t, hashed, nodewire.Target{Audience: nodewire.ToChannel, Name: long + "x"}.Topic())
	require.Equal(t, "n.00000000000000ff", nodewire.NodeTopic(255))
	for _, topic := range []string{hashed, nodewire.NodeTopic(255), nodewire.TopicNodes} {
		_, ok := nodewire.TargetOf(topic)
		require.False(t, ok, topic)
	}
}

func TestTargetsAreBounded(t *testing.T) {
	var targets nodewire.Targets
	require.True(t, targets.Empty())
	targets.Add(nodewire.Target{Name: nodewire.NodeName(0)})
	for i := range nodewire.MaxTargets {
		targets.Add(nodewire.Target{Name: nodewire.NodeName(uint64(i))})
	}
	require.False(t, targets.Empty())
	require.Len(t, targets.Set, nodewire.MaxTargets)
	targets.Add(nodewire.Target{Name: "one more"})
	require.Equal(t, nodewire.Targets{All: true}, targets)
	targets.Add(nodewire.Target{Name: "one more"})
	require.Equal(t, nodewire.Targets{All: true}, targets)
	require.False(t, targets.Empty())
}

func TestWindow(t *testing.T) {
	var w nodewire.Window
	for _, step := range []struct {
		sequence uint64
		isNew    bool
	}{
		{1, true}, {1, false}, {3, true}, {2, true}, {2, false}, {3, false},
		{nodewire.WindowSize, true}, {1, false},
		{nodewire.WindowSize + 1, true}, {1, true}, // 1 has left the window
		{nodewire.WindowSize + 1, false}, {2, false},
		{10 * nodewire.WindowSize, true}, {10*nodewire.WindowSize - 1, true}, {10 * nodewire.WindowSize, false},
		{nodewire.WindowSize + 1, true},
	} {
		require.Equal(t, step.isNew, w.Add(step.sequence), "%d", step.sequence)
	}
}

func TestPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p nodewire.Peers
		p.SetName(1, "unknown")
		require.Zero(t, p.Count())
		require.Equal(t, nodewire.New, p.Observe(1, 7))
		require.Equal(t, nodewire.Repeated, p.Observe(1, 7))
		require.Equal(t, nodewire.New, p.Observe(2, 7), "each node counts on its own")
		require.Empty(t, p.Names(), "without a hello they are publishers, not nodes")
		require.False(t, p.SetName(2, ""))
		next := nodewire.NextEra(9) + 1
		require.Equal(t, nodewire.Fresh, p.Observe(1, next))
		require.Equal(t, nodewire.Repeated, p.Observe(1, next))
		require.Equal(t, nodewire.Late, p.Observe(1, 8))
		require.Equal(t, nodewire.Fresh, p.Observe(1, nodewire.NextEra(next)+1))
		require.Equal(t, nodewire.Late, p.Observe(1, next+1))
		require.False(t, p.SetName(1, "one"))
		require.False(t, p.SetName(1, ""))
		require.Equal(t, map[uint64]string{1: "one", 2: nodewire.NodeName(2)}, p.Names())
		time.Sleep(3 * time.Second)
		p.Observe(2, 8)
		require.Equal(t, []uint64{1}, p.Expire(2*time.Second, time.Minute))
		require.Equal(t, map[uint64]string{2: nodewire.NodeName(2)}, p.Names())
		require.Equal(t, []string{"one"}, p.Gone())
		time.Sleep(3 * time.Second)
		p.Refresh()
		require.Empty(t, p.Expire(2*time.Second, time.Minute))
		require.Equal(t, 1, p.Count())
		p.Remove(2)
		require.Zero(t, p.Count())

		require.Equal(t, nodewire.Late, p.Observe(1, next+1), "its era is remembered")
		p.Expire(-1, time.Minute)
		require.Equal(t, nodewire.Returned, p.Observe(1, nodewire.NextEra(next)+2))
		require.Empty(t, p.Gone())
		p.Expire(-1, time.Minute)
		p.Observe(3, 1)
		require.False(t, p.SetName(3, "one"))
		require.Empty(t, p.Gone(), "it was started again")
		p.Observe(4, 1)
		require.True(t, p.SetName(4, "one"), "another live node has the name")
		p.Remove(4)
		p.Observe(5, 1)
		require.Equal(t, []uint64{3}, p.Expire(-1, time.Minute), "a publisher is forgotten in silence")
		require.Equal(t, []string{"one"}, p.Gone())
		p.Expire(-1, time.Minute)
		time.Sleep(time.Minute + time.Second)
		p.Expire(-1, time.Minute)
		require.Empty(t, p.Gone(), "it is forgotten")
	})
}

func FuzzParse(f *testing.F) {
	publication := nodewire.Head{Node: 1, Sequence: 2, Kind: nodewire.KindPublication, To: nodewire.Target{Name: "client"}}
	f.Add(publication.Append(nil))
	f.Add(append(publication.Append(nil), "body"...))
	hello := nodewire.Head{Node: 1, Sequence: 3, Kind: nodewire.KindHello}
	f.Add(nodewire.AppendHello(hello.Append(nil), true, "name"))
	f.Add(append(nodewire.AppendRecord(nil, 4, nodewire.ToRoom, nodewire.Origin{Client: true, User: "user"}), "envelope"...))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Add(append([]byte{1}, bytes.Repeat([]byte{1}, 18)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, body, err := nodewire.Parse(b)
		if err != nil {
			if errors.Is(err, nodewire.ErrUnknown) {
				h.Node = 0
			} else {
				require.ErrorIs(t, err, nodewire.ErrMalformed)
			}
			require.Zero(t, h)
			require.Nil(t, body)
			return
		}
		require.True(t, bytes.HasSuffix(b, body))
		again, rest, err := nodewire.Parse(append(h.Append(nil), body...))
		require.NoError(t, err)
		require.Equal(t, h, again)
		require.True(t, bytes.Equal(body, rest))
		if _, _, err := nodewire.ParseHello(body); err != nil {
			require.ErrorIs(t, err, nodewire.ErrMalformed)
		}
		if origin, envelope, err := nodewire.ParseRecord(body); err != nil {
			require.ErrorIs(t, err, nodewire.ErrMalformed)
		} else {
			require.True(t, bytes.HasSuffix(body, envelope))
			_, body, err := nodewire.Parse(append(nodewire.AppendRecord(nil, h.Node, h.To.Audience, origin), envelope...))
			require.NoError(t, err)
			again, rest, err := nodewire.ParseRecord(body)
			require.NoError(t, err)
			require.Equal(t, origin, again)
			require.True(t, bytes.Equal(envelope, rest))
		}
		if topic := h.To.Topic(); !nodewire.IsHashed(topic) {
			target, ok := nodewire.TargetOf(topic)
			require.True(t, ok)
			require.Equal(t, h.To, target)
		}
	})
}
