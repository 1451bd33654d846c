//go:build unix

package websocket_test

import (
	"math"
	"syscall"
	"testing"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// TestCodecsNameTheirLimit encodes data that is mapped and never read, because the codecs
// check the length first.
func TestCodecsNameTheirLimit(t *testing.T) {
	for limit, codec := range map[int]websocket.Codec{512 << 20: websocket.FlatBuffersCodec{}, math.MaxUint32 / 3: websocket.MsgpackCodec{}} {
		data, err := syscall.Mmap(-1, 0, limit+1, syscall.PROT_NONE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
		if err != nil {
			t.Skip(err)
		}
		_, err = codec.Marshal(&websocket.Message{Data: data})
		require.Equal(t, &websocket.MessageTooLargeError{Size: int64(limit) + 1, Limit: int64(limit), LimitedBy: codec.Name()}, err)
		require.NoError(t, syscall.Munmap(data))
	}
}
