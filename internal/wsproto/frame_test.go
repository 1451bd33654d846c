package wsproto_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
	"github.com/stretchr/testify/require"
)

func TestAppendHeader(t *testing.T) {
	t.Parallel()
	for payload, want := range map[int]string{
		0:       "\x81\x00",
		125:     "\x81\x7d",
		126:     "\x81\x7e\x00\x7e",
		65535:   "\x81\x7e\xff\xff",
		65536:   "\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00",
		1 << 30: "\x81\x7f\x00\x00\x00\x00\x40\x00\x00\x00",
	} {
		require.Equal(t, "x"+want, string(wsproto.AppendHeader([]byte("x"), wsproto.OpText, payload)))
		require.Equal(t, len(want), wsproto.HeaderSize(payload))
		require.LessOrEqual(t, len(want), wsproto.MaxHeader)
	}
	require.Equal(t, "\xc2\x01", string(wsproto.AppendHeader(nil, wsproto.OpBinary|wsproto.CompressedBit, 1)))
}

func TestControlFrame(t *testing.T) {
	t.Parallel()
	require.Equal(t, "\x89\x00", string(wsproto.ControlFrame(wsproto.OpPing, nil)))
	require.Equal(t, "\x8a\x02hi", string(wsproto.ControlFrame(wsproto.OpPong, []byte("hi"))))
	long := bytes.Repeat([]byte("x"), 126)
	require.Equal(t, "\x8a\x7d"+string(long[:125]), string(wsproto.ControlFrame(wsproto.OpPong, long)))
}

func TestCloseFrame(t *testing.T) {
	t.Parallel()
	require.Equal(t, "\x88\x05\x03\xe8bye", string(wsproto.CloseFrame(1000, "bye")))
	require.Equal(t, "\x88\x00", string(wsproto.CloseFrame(1005, "ignored")))
	require.Equal(t, "\x88\x00", string(wsproto.CloseFrame(1006, "ignored")))
	require.Equal(t, "\x88\x7d\x11\x39"+strings.Repeat("r", 123), string(wsproto.CloseFrame(4409, strings.Repeat("r", 200))))
}

func TestSendableCode(t *testing.T) {
	t.Parallel()
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999} {
		require.True(t, wsproto.SendableCode(code), code)
	}
	for _, code := range []int{-1, 0, 999, 1004, 1005, 1006, 1014, 1015, 1016, 2000, 2999, 5000, 1000 + 1<<16} {
		require.False(t, wsproto.SendableCode(code), code)
	}
}

func TestTrimReason(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]string{
		"":                                "",
		"done":                            "done",
		strings.Repeat("r", 123):          strings.Repeat("r", 123),
		strings.Repeat("r", 124):          strings.Repeat("r", 123),
		strings.Repeat("€", 41):           strings.Repeat("€", 41),
		strings.Repeat("€", 42):           strings.Repeat("€", 41),
		"xx" + strings.Repeat("€", 41):    "xx" + strings.Repeat("€", 40),
		"x" + strings.Repeat("😀", 31):     "x" + strings.Repeat("😀", 30),
		"bad \xff":                        `"bad \xff"`,
		strings.Repeat("\xff", 50):        `"` + strings.Repeat(`\xff`, 30) + `\x`,
		strings.Repeat("r", 122) + "\xc3": `"` + strings.Repeat("r", 122),
	} {
		require.Equal(t, want, wsproto.TrimReason(reason), "%q", reason)
	}
}

func FuzzTrimReason(f *testing.F) {
	for _, seed := range []string{"", "done", strings.Repeat("€", 50), "\xff", strings.Repeat("x", 122) + "😀"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, reason string) {
		got := wsproto.TrimReason(reason)
		require.LessOrEqual(t, len(got), wsproto.MaxReason)
		require.True(t, utf8.ValidString(got))
		if utf8.ValidString(reason) {
			require.True(t, strings.HasPrefix(reason, got))
			require.True(t, got == reason || len(got) > wsproto.MaxReason-utf8.UTFMax, "more is cut than one code point")
		}
		frame := wsproto.CloseFrame(1000, reason)
		require.Equal(t, byte(len(got)+2), frame[1])
		require.Equal(t, uint16(1000), binary.BigEndian.Uint16(frame[2:]))
		require.Equal(t, got, string(frame[4:]))
	})
}
