package websocket_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto/wsprototest"
)

// TestManyCompressedMessages sends many more messages than are remembered, in
// pieces that seldom end where a message does.
func TestManyCompressedMessages(t *testing.T) {
	frames, meant, _ := wsprototest.Mixed(300, func(text string) string { return deflated(text, 1) })
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
