package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"time"
)

// attack is the input of a hostile peer after its handshake.
type attack struct {
	name  string
	codec string
	bytes func(rng *rand.Rand) []byte
	stays bool // the hub may keep the connection open
}

// frame returns a masked frame with the given first byte, which may be invalid, and
// the mask 0.
func frame(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	b = append(b, 0, 0, 0, 0)
	return append(b, payload...)
}

func fixed(b []byte) func(*rand.Rand) []byte { return func(*rand.Rand) []byte { return b } }

var attacks = []attack{
	{name: "vector length", codec: "flatbuffers", bytes: fixed(frame(0x82, []byte{0xff, 0xff, 0xff, 0x7f}))},
	{name: "unmasked", codec: "json", bytes: fixed([]byte{0x81, 0x02, '{', '}'})},
	{name: "reserved opcode", codec: "json", bytes: fixed(frame(0x83, nil))},
	{name: "reserved bit", codec: "json", bytes: fixed(frame(0x91, []byte("{}")))},
	{name: "fragmented ping", codec: "json", bytes: fixed(frame(0x09, nil))},
	{name: "long ping", codec: "json", bytes: fixed(frame(0x89, make([]byte, 126)))},
	{name: "half a close code", codec: "json", bytes: fixed(frame(0x88, []byte{3}))},
	{name: "continuation", codec: "json", bytes: fixed(frame(0x80, []byte("x")))},
	{name: "huge length", codec: "json", bytes: fixed([]byte{0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})},
	{name: "negative length", codec: "json", bytes: fixed([]byte{0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})},
	{name: "too big", codec: "json", bytes: fixed(frame(0x81, make([]byte, 100_000)))},
	{name: "not UTF-8", codec: "json", bytes: fixed(frame(0x81, []byte{'"', 0xff, '"'}))},
	{name: "not JSON", codec: "json", bytes: fixed(frame(0x81, []byte(`{"type":`)))},
	{name: "text for binary", codec: "protobuf", bytes: fixed(frame(0x81, []byte("{}")))},
	{name: "not protobuf", codec: "protobuf", bytes: fixed(frame(0x82, []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}))},
	{name: "not MessagePack", codec: "msgpack", bytes: fixed(frame(0x82, []byte{0xdf, 0xff, 0xff, 0xff, 0xff}))},
	{name: "empty fragments", codec: "json", bytes: fixed(append(frame(0x01, nil), bytes.Repeat(frame(0x00, nil), 500)...))},
	{name: "bomb", codec: "json", bytes: fixed(frame(0xc1, bomb(32<<20)))},
	{name: "corrupt deflate", codec: "json", bytes: fixed(frame(0xc1, []byte{0xff, 0xfe, 0xfd, 0xfc}))},
	{name: "garbage", codec: "json", stays: true, bytes: func(rng *rand.Rand) []byte {
		b := make([]byte, 1+rng.IntN(2000))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}},
	{name: "half a frame", codec: "json", stays: true, bytes: fixed([]byte{0x81, 0xfe, 0x10})},
	{name: "pings", codec: "json", stays: true, bytes: fixed(bytes.Repeat(frame(0x89, []byte("x")), 2000))},
	{name: "bad names", codec: "json", stays: true, bytes: fixed(bytes.Repeat(frame(0x81, []byte(`{"type":"subscribe","data":{"channel":"\u0000"}}`)), 50))},
	{name: "many names", codec: "json", stays: true, bytes: func(rng *rand.Rand) []byte {
		var b []byte
		for i := range 1500 {
			b = append(b, frame(0x81, fmt.Appendf(nil, `{"type":"join_room","data":{"room_id":"%d-%d"}}`, rng.Uint32(), i))...)
		}
		return b
	}},
	{name: "random envelopes", codec: "flatbuffers", stays: true, bytes: func(rng *rand.Rand) []byte {
		b := make([]byte, rng.IntN(200))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return frame(0x82, b)
	}},
}

// bomb returns n zeros, deflated as in RFC 7692, section 7.2.1.
func bomb(n int) []byte {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		panic(err)
	}
	_, _ = w.Write(make([]byte, n)) // writing to a bytes.Buffer never fails
	_ = w.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xff, 0xff})
}

// runAttack connects, attacks, and sees the connection end.
func runAttack(s *hubServer, rng *rand.Rand) error {
	c, err := net.DialTimeout("tcp", s.plain, time.Minute)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoConnection, err)
	}
	defer func() { _ = c.Close() }() // the hub may have closed it already
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	a := attacks[rng.IntN(len(attacks))]
	request := "GET / HTTP/1.1\r\nHost: " + s.plain + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: " + a.codec + "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
	s.results.hostile.Add(1)
	if rng.IntN(20) == 0 { // half a handshake
		_, _ = c.Write([]byte(request[:rng.IntN(len(request))]))
		time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
		return nil
	}
	if _, err := c.Write([]byte(request)); err != nil {
		return fmt.Errorf("%w: %w", errNoConnection, err)
	}
	br := bufio.NewReader(c)
	response, err := http.ReadResponse(br, nil)
	if err != nil {
		return fmt.Errorf("%w: handshake: %w", errNoConnection, err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("handshake: %s", response.Status)
	}
	s.results.connections.Add(1)
	if _, err := c.Write(a.bytes(rng)); err != nil {
		return nil // the hub closed the connection during the write
	}
	if a.stays {
		_ = c.SetDeadline(time.Now().Add(time.Duration(rng.IntN(2000)) * time.Millisecond))
	}
	if _, err := io.Copy(io.Discard, br); errors.Is(err, os.ErrDeadlineExceeded) && !a.stays {
		return fmt.Errorf("attack %q did not end the connection", a.name)
	}
	return nil
}
