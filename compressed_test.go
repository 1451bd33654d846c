package websocket_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// manyCompressed returns n messages, about every other of which is compressed with
// deflate, as frames and as what they mean. Some are fragmented or have a ping
// inside.
func manyCompressed(n int, deflate func(string) string) (frames, meant []string, compressed []bool) {
	rng := rand.New(rand.NewPCG(7, 7))
	for i := range n {
		text := fmt.Sprint(i, strings.Repeat(" and on", rng.IntN(20)))
		payload, first := text, byte(textOp)
		zip := rng.IntN(2) == 0
		if zip {
			payload, first = deflate(text), textOp|rsv1
		}
		frame := ""
		switch half := len(payload) / 2; rng.IntN(4) {
		case 0:
			frame = frameOf(first, payload[:half]) + pingFrame("p") + frameOf(fin|contOp, payload[half:])
		case 1:
			frame = frameOf(first, payload[:half]) + frameOf(contOp, "") + frameOf(fin|contOp, payload[half:])
		default:
			frame = frameOf(fin|first, payload)
		}
		frames, meant, compressed = append(frames, frame), append(meant, text), append(compressed, zip)
	}
	return frames, meant, compressed
}

// TestCompressionIsRememberedForWhatWaits has the reader stay behind what has come
// by some messages, without ever catching up.
func TestCompressionIsRememberedForWhatWaits(t *testing.T) {
	t.Parallel()
	const n, slack = 5000, 65
	frames, _, compressed := manyCompressed(n, func(text string) string { return text })
	for _, behind := range []int{0, 1, 2, 63, 64, 65, 66, 200} {
		t.Run(fmt.Sprint(behind), func(t *testing.T) {
			t.Parallel()
			checker := websocket.NewFrameChecker(true, 1<<20)
			begun := 0
			for i, frame := range frames {
				b := []byte(frame)
				taken, violation := checker.Check(b)
				require.Nil(t, violation)
				require.Equal(t, len(b), taken)
				if i >= behind {
					require.Equal(t, compressed[begun], checker.Begin(), "message %d", begun)
					begun++
				}
				require.LessOrEqual(t, checker.Remembered(), behind+slack, "after %d messages", i+1)
			}
			for ; begun < n; begun++ {
				require.Equal(t, compressed[begun], checker.Begin(), "message %d", begun)
			}
			require.Zero(t, checker.Remembered())
		})
	}
}

// TestManyCompressedMessages sends many more messages than are remembered, in
// pieces that seldom end where a message does.
func TestManyCompressedMessages(t *testing.T) {
	frames, meant, _ := manyCompressed(300, func(text string) string { return deflated(text, 1) })
	for _, piece := range []int{0, 7, 300, 997} {
		onBothPaths(t, func(t *testing.T, p path) {
			t.Run(fmt.Sprintf("piece=%d", piece), func(t *testing.T) {
				t.Parallel()
				tt := conformanceCase{offer: "permessage-deflate", stream: strings.Join(frames, ""), want: meant}
				for range frames {
					tt.pongs = append(tt.pongs, "p")
				}
				synctest.Test(t, func(t *testing.T) { tt.run(t, p, piece) })
			})
		})
	}
}
