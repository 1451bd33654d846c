package client_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// hexBytes is a string of hexadecimal digits in JSON.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type vectorFile struct {
	AESKey  hexBytes `json:"aes_key_hex"`
	HMACKey hexBytes `json:"hmac_key_hex"`
	Modes   []struct {
		Name            string
		AES, HMAC       bool
		SignThenEncrypt bool `json:"sign_then_encrypt"`
	}
	CloseCodes []struct {
		Code      int
		Reconnect string
	} `json:"close_codes"`
	Messages []vectorMessage
}

type vectorMessage struct {
	Name, Codec, Type, Channel, ID string
	Data                           hexBytes `json:"data_hex"`
	Timestamp                      int64    `json:",string"`
	ClientID                       string   `json:"client_id"`
	Room                           bool
	ExceptSelf                     bool   `json:"except_self"`
	Offset                         uint64 `json:",string"`
	Key, Trace                     string
	Resume                         *struct{}
	Control                        map[string]string
	Wire                           []struct {
		Mode, Frame string
		Bytes       hexBytes `json:"bytes_hex"`
	}
}

// TestVectors decodes the frames of testdata/vectors.json. The tests of the hub and of
// the other clients use the same file.
func TestVectors(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../testdata/vectors.json")
	require.NoError(t, err)
	var file vectorFile
	require.NoError(t, json.Unmarshal(b, &file))
	require.NotEmpty(t, file.Messages)

	receivers := map[string]*client.Receiver{} // by mode and codec
	for _, mode := range file.Modes {
		for _, codec := range []string{"json", "protobuf", "flatbuffers", "msgpack"} {
			o := client.Options{Codec: codec}
			if mode.AES || mode.HMAC {
				o.Security = &websocket.SecurityConfig{SignThenEncrypt: mode.SignThenEncrypt}
			}
			if mode.AES {
				o.Security.AESKey = file.AESKey
			}
			if mode.HMAC {
				o.Security.HMACKey = file.HMACKey
			}
			receivers[mode.Name+"/"+codec] = client.NewReceiver(o)
		}
	}
	frames := map[string]int{"text": websocket.TextMessage, "binary": websocket.BinaryMessage}
	for _, v := range file.Messages {
		t.Run(v.Name+"/"+v.Codec, func(t *testing.T) {
			t.Parallel()
			want := &websocket.Message{Type: v.Type, Channel: v.Channel, Timestamp: v.Timestamp, ClientID: v.ClientID, ID: v.ID, Room: v.Room, ExceptSelf: v.ExceptSelf, Offset: v.Offset, Key: v.Key, Trace: v.Trace}
			if len(v.Data) > 0 {
				want.Data = v.Data
			}
			for _, w := range v.Wire {
				r := receivers[w.Mode+"/"+v.Codec]
				got, code := r.Receive(frames[w.Frame], bytes.Clone(w.Bytes))
				require.Zero(t, code, w.Mode)
				require.Equal(t, want, got, w.Mode)
				v.requireControl(t, r, got)

				other := websocket.TextMessage + websocket.BinaryMessage - frames[w.Frame]
				_, code = r.Receive(other, bytes.Clone(w.Bytes))
				require.Equal(t, websocket.CloseUnsupportedData, code, w.Mode)
				if w.Mode == "none" {
					continue
				}
				for _, at := range []int{0, len(w.Bytes) / 2, len(w.Bytes) - 1} {
					altered := bytes.Clone(w.Bytes)
					altered[at] ^= 0x80
					_, code = r.Receive(websocket.BinaryMessage, altered)
					require.Equal(t, websocket.ClosePolicyViolation, code, "%s with byte %d changed", w.Mode, at)
				}
				opened, err := r.Open(bytes.Clone(w.Bytes))
				require.NoError(t, err)
				require.Equal(t, []byte(v.Wire[0].Bytes), opened, w.Mode)
				sealed := r.Seal(opened)
				require.Len(t, sealed, len(w.Bytes), w.Mode)
				got, code = r.Receive(websocket.BinaryMessage, sealed)
				require.Zero(t, code, w.Mode)
				require.Equal(t, want, got, w.Mode)
			}
		})
	}
	for _, c := range file.CloseCodes {
		require.Equal(t, c.Reconnect == "yes", client.Reconnectable(c.Code), "%d", c.Code)
	}
}

func (v *vectorMessage) requireControl(t *testing.T, r *client.Receiver, m *websocket.Message) {
	t.Helper()
	if v.Resume != nil {
		return // the hub's tests decode it
	}
	switch v.Type {
	case "subscribe", "unsubscribe":
		data, err := r.Target(v.Control["channel"], false)
		require.NoError(t, err)
		require.Equal(t, []byte(v.Data), data)
	case "join_room", "leave_room":
		data, err := r.Target(v.Control["room_id"], true)
		require.NoError(t, err)
		require.Equal(t, []byte(v.Data), data)
	case "error":
		want := &client.Error{Code: v.Control["code"], Message: v.Control["message"], Target: v.Channel}
		require.Equal(t, want, r.Refusal(m))
	case "gap":
		gap, err := r.Gap(m.Data)
		require.NoError(t, err)
		require.Equal(t, v.Control["channel"], gap.Channel)
		require.Equal(t, v.Control["room_id"], gap.RoomID)
		require.Equal(t, v.Control["all"] == "true", gap.All)
		require.Equal(t, v.Control["reason"], gap.Reason)
		require.Equal(t, v.Control["count"], strconv.FormatUint(gap.Count, 10))
		require.Equal(t, v.Control["first"], strconv.FormatInt(gap.First, 10))
		require.Equal(t, v.Control["last"], strconv.FormatInt(gap.Last, 10))
	}
}
