package wsproto_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto/wsprototest"
	"github.com/stretchr/testify/require"
)

// FuzzChecker compares Checker with a reference that reads the stream as a whole,
// however the stream is split. A checker returned by Ahead, made between two pieces, must
// give the same results for the rest of the stream.
func FuzzChecker(f *testing.F) {
	for _, stream := range wsprototest.Streams() {
		f.Add(stream, []byte{}, false)
		f.Add(stream, []byte{1}, true)
		f.Add(stream, []byte{2, 3, 0, 7}, true)
	}
	const limit = 1000
	f.Fuzz(func(t *testing.T, stream, splits []byte, deflate bool) {
		frames := 0
		var payload []byte // of the first whole Close frame, at which the referee stops
		closed := false
		want := wsprototest.Referee(stream, deflate, limit, func(f wsprototest.SeenFrame) bool {
			frames++
			if f.First&0xf == wsproto.OpClose && f.Whole {
				payload, closed = f.Payload, true
			}
			return !closed
		})
		if want.Early {
			return
		}
		whole := wsproto.NewChecker(deflate, limit)
		n, counted, violation := whole.Check(slices.Clone(stream))
		if want.Code == 0 {
			require.Nil(t, violation)
			require.Equal(t, len(stream), n)
		} else {
			require.NotNil(t, violation)
			require.Equal(t, want.Code, violation.Code, violation.Reason)
			require.NotEmpty(t, violation.Reason)
			require.Equal(t, want.Start, n, "the bytes before the frame are passed on")
		}
		require.GreaterOrEqual(t, counted, frames)
		if closed {
			require.Equal(t, frames, counted, "nothing is checked behind a Close frame")
		}
		require.LessOrEqual(t, counted, frames+1, "except the last frame, which may break a rule or lack its masking key")
		requireClosed(t, &whole, closed, payload)

		split := wsproto.NewChecker(deflate, limit)
		ahead := split.Ahead()
		passed, again, turn := 0, 0, 0
		for rest := stream; len(rest) > 0; turn++ {
			size := 1
			if len(splits) > 0 {
				size = 1 + int(splits[turn%len(splits)])
				if splits[turn%len(splits)]%2 == 0 {
					ahead = split.Ahead()
				}
			}
			piece := slices.Clone(rest[:min(size, len(rest))])
			early := slices.Clone(piece)
			rest = rest[len(piece):]
			kAhead, moreAhead, foundAhead := ahead.Check(early)
			k, more, found := split.Check(piece)
			passed += k
			again += more
			require.Equal(t, []any{k, more, found}, []any{kAhead, moreAhead, foundAhead}, "ahead")
			require.Equal(t, piece, early, "ahead")
			if found != nil {
				require.Equal(t, violation, found)
				require.Equal(t, counted, again, "frames")
				require.GreaterOrEqual(t, passed, want.Start)
				require.Less(t, passed, want.Known, "a frame that breaks a rule was passed on")
				requireClosed(t, &split, false, nil)
				requireClosed(t, &ahead, false, nil)
				return
			}
			require.Equal(t, len(piece), k)
			_, _, ok := split.Closed()
			_, _, okAhead := ahead.Closed()
			require.Equal(t, ok, okAhead, "ahead")
		}
		require.Nil(t, violation, "the violation depends on how the stream is split")
		require.Equal(t, counted, again, "frames")
		requireClosed(t, &split, closed, payload)
		requireClosed(t, &ahead, closed, payload)
	})
}

// requireClosed compares the result of Closed with the payload of the first Close frame.
// whole reports whether there is one.
func requireClosed(t *testing.T, checker *wsproto.Checker, whole bool, payload []byte) {
	t.Helper()
	wantCode, wantReason := 0, ""
	switch {
	case !whole:
	case len(payload) == 0:
		wantCode = 1005
	default:
		wantCode, wantReason = int(binary.BigEndian.Uint16(payload)), string(payload[2:])
		whole = wsproto.SendableCode(wantCode) && utf8.ValidString(wantReason)
	}
	code, reason, ok := checker.Closed()
	require.Equal(t, whole, ok)
	if ok {
		require.Equal(t, wantCode, code)
		require.Equal(t, wantReason, reason)
	}
}

// TestCheckerViolations has one case for each rule. Every case follows a correct
// message, which is passed on.
func TestCheckerViolations(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 126)
	for _, tt := range []struct {
		name    string
		stream  string
		deflate bool
		code    int
		reason  string
	}{
		{"RSV2", wsprototest.Frame(0xa1, "x"), true, 1002, "reserved bit RSV2 or RSV3 is set"},
		{"RSV3", wsprototest.Frame(0x91, "x"), true, 1002, "reserved bit RSV2 or RSV3 is set"},
		{"not masked", wsprototest.Header(0x81, 0, 0, 0), true, 1002, "frame is not masked"},
		{"reserved data opcode", wsprototest.Frame(0x83, ""), true, 1002, "reserved opcode 0x3"},
		{"reserved control opcode", wsprototest.Frame(0x8b, ""), true, 1002, "reserved opcode 0xb"},
		{"fragmented ping", wsprototest.Frame(0x09, ""), true, 1002, "control frame is fragmented"},
		{"long ping", wsprototest.Frame(0x89, long), true, 1002, "control frame is longer than 125 bytes"},
		{"Close of a byte", wsprototest.Frame(0x88, "x"), true, 1002, "Close frame with half a status code"},
		{"RSV1 without agreement", wsprototest.Frame(0xc1, "x"), false, 1002, "reserved bit RSV1 is set"},
		{"RSV1 on a ping", wsprototest.Frame(0xc9, ""), true, 1002, "reserved bit RSV1 is set"},
		{"RSV1 on a continuation", wsprototest.Frame(0x01, "x") + wsprototest.Frame(0xc0, ""), true, 1002, "reserved bit RSV1 is set"},
		{"continuation of no message", wsprototest.Frame(0x80, "x"), true, 1002, "continuation of no message"},
		{"message in a message", wsprototest.Frame(0x01, "x") + wsprototest.Frame(0x81, ""), true, 1002, "new message inside a fragmented one"},
		{"long form of 125", wsprototest.Header(0x81, 0x80, 125, 3) + "mask", true, 1002, "length is not in its shortest form"},
		{"longest form of 65535", wsprototest.Header(0x81, 0x80, 65535, 9) + "mask", true, 1002, "length is not in its shortest form"},
		{"top bit", wsprototest.Header(0x81, 0x80, 1<<63, 9) + "mask", true, 1002, "length has its top bit set"},
		{"too big", wsprototest.Header(0x81, 0x80, 1001, 0) + "mask", true, 1009, "message of 1001 bytes is larger than 1000 bytes on the wire"},
		{"too big so far", wsprototest.Header(0x01, 0x80, 1001, 0) + "mask", true, 1009, "message of at least 1001 bytes is larger than 1000 bytes on the wire"},
		{"largest sum", wsprototest.Frame(0x01, "x") + wsprototest.Header(0x80, 0x80, math.MaxInt64, 0) + "mask", true, 1009, "message of 9223372036854775808 bytes is larger than 1000 bytes on the wire"},
		{"too big together", wsprototest.Frame(0x01, "x") + wsprototest.Header(0x80, 0x80, 1000, 0) + "mask", true, 1009, "message of 1001 bytes is larger than 1000 bytes on the wire"},
		{"empty fragments", wsprototest.Frame(0x01, "") + strings.Repeat(wsprototest.Frame(0, ""), 128), true, 1008, "too many empty fragments"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			before := wsprototest.Frame(0x81, strings.Repeat("x", 1000))
			checker := wsproto.NewChecker(tt.deflate, 1000)
			n, _, violation := checker.Check([]byte(before + tt.stream))
			require.Equal(t, &wsproto.Violation{Code: tt.code, Reason: tt.reason}, violation)
			require.GreaterOrEqual(t, n, len(before))
		})
	}
}

// TestCheckerCountsFrames splits frames inside their headers and payloads. A frame counts
// once, when its length is complete.
func TestCheckerCountsFrames(t *testing.T) {
	t.Parallel()
	checker := wsproto.NewChecker(false, 1000)
	stream := []byte(wsprototest.Frame(0x89, "ping") + wsprototest.Fragments(0x01, strings.Repeat("x", 200), "end"))
	for _, piece := range []struct{ size, frames int }{{1, 0}, {1, 1}, {6, 0}, {2 + 3, 0}, {1, 1}, {4 + 200 + 9, 1}} {
		n, frames, violation := checker.Check(stream[:piece.size])
		require.Nil(t, violation)
		require.Equal(t, piece.size, n)
		require.Equal(t, piece.frames, frames)
		stream = stream[n:]
	}
	require.Empty(t, stream)
}

// TestCheckerStopsAtClose has bytes of all kinds behind a Close frame. They are passed on
// and do not change the result of Closed.
func TestCheckerStopsAtClose(t *testing.T) {
	t.Parallel()
	for _, first := range []struct {
		frame  string
		code   int
		reason string
	}{
		{wsprototest.Frame(0x88, ""), 1005, ""},
		{wsprototest.CloseFrame(1000, ""), 1000, ""},
		{wsprototest.CloseFrame(4002, "bye"), 4002, "bye"},
	} {
		for _, behind := range []string{
			wsprototest.Frame(0x81, "x"), wsprototest.Frame(0x81, "text behind"), wsprototest.Frame(0xc2, "zip"),
			wsprototest.Frame(0x81, "partial")[:8], wsprototest.CloseFrame(1001, "again"), "\xff", "\xff\xff\xff",
		} {
			for _, size := range []int{1, 2, 5, 100} {
				checker := wsproto.NewChecker(true, 1000)
				for _, piece := range wsprototest.Chopped(first.frame+behind, size) {
					b := []byte(piece)
					n, _, violation := checker.Check(b)
					require.Nil(t, violation, "%q", behind)
					require.Equal(t, len(piece), n)
					require.Equal(t, piece, string(b))
				}
				for _, c := range []wsproto.Checker{checker, checker.Ahead()} {
					code, reason, ok := c.Closed()
					require.True(t, ok, "%q", behind)
					require.Equal(t, first.code, code)
					require.Equal(t, first.reason, reason)
				}
			}
		}
	}
}

// TestCheckerClearsRSV1 checks the bytes that are passed on.
func TestCheckerClearsRSV1(t *testing.T) {
	t.Parallel()
	checker := wsproto.NewChecker(true, 1000)
	b := []byte(wsprototest.Frame(0xc1, "zip") + wsprototest.Frame(0x82, "plain"))
	_, frames, violation := checker.Check(b)
	require.Nil(t, violation)
	require.Equal(t, 2, frames)
	require.Equal(t, wsprototest.Frame(0x81, "zip")+wsprototest.Frame(0x82, "plain"), string(b))
	require.True(t, checker.NextCompressed())
	require.False(t, checker.NextCompressed())
}

// TestCheckDoesNotAllocate reads many messages through one Checker.
func TestCheckDoesNotAllocate(t *testing.T) {
	checker := wsproto.NewChecker(true, 1000)
	stream := []byte(wsprototest.Frame(0xc1, "zip") + wsprototest.Frame(0x89, "") + wsprototest.Frame(0x81, "plain"))
	b := make([]byte, len(stream))
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		copy(b, stream)
		if n, frames, violation := checker.Check(b); n != len(b) || frames != 3 || violation != nil {
			t.Error(n, frames, violation)
		}
		if !checker.NextCompressed() || checker.NextCompressed() {
			t.Error("compressed")
		}
	}))
}

func BenchmarkChecker(b *testing.B) {
	checker := wsproto.NewChecker(false, 1<<20)
	stream := []byte(wsprototest.Frame(0x81, strings.Repeat("x", 150)))
	b.ReportAllocs()
	for b.Loop() {
		checker.Check(stream)
	}
}

// TestNextCompressedBehindCheck keeps NextCompressed a number of messages behind Check.
func TestNextCompressedBehindCheck(t *testing.T) {
	t.Parallel()
	const n, slack = 5000, 65
	frames, _, compressed := wsprototest.Mixed(n, func(text string) string { return text })
	for _, behind := range []int{0, 1, 2, 63, 64, 65, 66, 200} {
		t.Run(fmt.Sprint(behind), func(t *testing.T) {
			t.Parallel()
			checker := wsproto.NewChecker(true, 1<<20)
			begun := 0
			for i, frame := range frames {
				b := []byte(frame)
				taken, _, violation := checker.Check(b)
				require.Nil(t, violation)
				require.Equal(t, len(b), taken)
				if i >= behind {
					require.Equal(t, compressed[begun], checker.NextCompressed(), "message %d", begun)
					begun++
				}
				require.LessOrEqual(t, checker.Kept(), behind+slack, "after %d messages", i+1)
			}
			for ; begun < n; begun++ {
				require.Equal(t, compressed[begun], checker.NextCompressed(), "message %d", begun)
			}
			require.Zero(t, checker.Kept())
		})
	}
}
