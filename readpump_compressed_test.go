package websocket_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto/wsprototest"
)

// TestManyCompressedMessages sends compressed and plain messages in pieces that rarely
// end at a message boundary. There are many more of them than the connection keeps
// RSV1 states.
func TestManyCompressedMessages(t *testing.T) {
	frames, messages, _ := wsprototest.Mixed(300, func(text string) string { return deflated(text, 1) })
	for _, piece := range []int{0, 7, 300, 997} {
		onBothPaths(t, func(t *testing.T, p path) {
			t.Run(fmt.Sprintf("piece=%d", piece), func(t *testing.T) {
				t.Parallel()
				tt := conformanceCase{offer: "permessage-deflate", stream: strings.Join(frames, ""), want: messages}
				for range frames {
					tt.pongs = append(tt.pongs, "p")
				}
				synctest.Test(t, func(t *testing.T) { tt.run(t, p, piece) })
			})
		})
	}
}
