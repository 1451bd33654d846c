package websocket_test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto/wsprototest"
	"github.com/stretchr/testify/require"
)

// First bytes of frames (RFC 6455 section 5.2).
const (
	fin      = 0x80
	rsv1     = 0x40
	rsv2     = 0x20
	rsv3     = 0x10
	contOp   = 0x0
	textOp   = 0x1
	binaryOp = 0x2
	closeOp  = 0x8
	pingOp   = 0x9
	pongOp   = 0xa
)

// sampleKey and sampleAccept are the example of RFC 6455 section 1.3.
const (
	sampleKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	sampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// rawPeer is a client that implements RFC 6455 itself. It checks every frame that
// it reads.
type rawPeer struct {
	t      testing.TB
	nc     net.Conn
	br     *bufio.Reader
	status int
	header textproto.MIMEHeader // of the handshake's response
	body   string               // of a refused handshake's response
	closed bool                 // a Close frame was read
}

// handshakeOf returns a correct handshake request with additional headers.
func handshakeOf(headers ...string) string {
	return requestOf(append([]string{
		"GET / HTTP/1.1",
		"Host: hub.test",
		"Upgrade: websocket",
		"Connection: Upgrade",
		"Sec-WebSocket-Key: " + sampleKey,
		"Sec-WebSocket-Version: 13",
	}, headers...)...)
}

func requestOf(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

func protocolHeader(name string) string { return "Sec-WebSocket-Protocol: " + name }

// raw sends a handshake request on an in-memory connection and reads the response.
func (f *fakeHub) raw(request string) *rawPeer {
	f.t.Helper()
	server, client := testnet.Pair(1 << 20)
	served := f.accept(server)
	p := rawOver(f.t, client, request)
	<-served
	return p
}

// rawTCP sends a handshake request on a TCP connection and reads the response.
func (b *bundle) rawTCP(t testing.TB, request string) *rawPeer {
	t.Helper()
	nc, err := net.Dial("tcp", b.server.Listener.Addr().String())
	require.NoError(t, err)
	require.NoError(t, nc.SetDeadline(time.Now().Add(patience)))
	t.Cleanup(func() { _ = nc.Close() }) // some tests have closed it already
	return rawOver(t, nc, request)
}

func rawOver(t testing.TB, nc net.Conn, request string) *rawPeer {
	t.Helper()
	p := &rawPeer{t: t, nc: nc, br: bufio.NewReader(nc)}
	_, err := io.WriteString(nc, request)
	require.NoError(t, err)
	tp := textproto.NewReader(p.br)
	line, err := tp.ReadLine()
	require.NoError(t, err)
	version, rest, _ := strings.Cut(line, " ")
	wantVersion := "HTTP/1.1"
	if strings.Contains(request, " HTTP/1.0\r\n") {
		wantVersion = "HTTP/1.0" // net/http responds in the version of the request
	}
	require.Equal(t, wantVersion, version)
	code, _, _ := strings.Cut(rest, " ")
	p.status, err = strconv.Atoi(code)
	require.NoError(t, err)
	p.header, err = tp.ReadMIMEHeader()
	require.NoError(t, err)
	if p.status != http.StatusSwitchingProtocols {
		body := io.Reader(p.br)
		if n, err := strconv.ParseInt(p.header.Get("Content-Length"), 10, 64); err == nil {
			body = io.LimitReader(body, n)
		}
		b, err := io.ReadAll(body)
		require.NoError(t, err)
		p.body = string(b)
	}
	return p
}

func (p *rawPeer) requireOpen() *rawPeer {
	p.t.Helper()
	require.Equal(p.t, http.StatusSwitchingProtocols, p.status, p.body)
	require.Equal(p.t, sampleAccept, p.header.Get("Sec-WebSocket-Accept"))
	require.Equal(p.t, "websocket", strings.ToLower(p.header.Get("Upgrade")))
	require.Equal(p.t, "upgrade", strings.ToLower(p.header.Get("Connection")))
	return p
}

// write does not fail the test: the hub may have closed already.
func (p *rawPeer) write(stream string) { _, _ = io.WriteString(p.nc, stream) }

// next reads one frame. It returns io.EOF if the connection ends between two frames.
func (p *rawPeer) next() (rawFrame, error) {
	var h [8]byte
	if _, err := io.ReadFull(p.br, h[:2]); err != nil {
		return rawFrame{}, err
	}
	f := rawFrame{first: h[0]}
	opcode, n := h[0]&0x0f, uint64(h[1])
	require.Zero(p.t, h[0]&(rsv2|rsv3), "a reserved bit is set in %#x", h[0])
	require.Zero(p.t, h[1]&0x80, "the hub must not mask")
	require.False(p.t, p.closed, "frame after Close: %#x", h[0])
	switch n {
	case 126:
		_, err := io.ReadFull(p.br, h[:2])
		require.NoError(p.t, err)
		n = uint64(binary.BigEndian.Uint16(h[:]))
		require.GreaterOrEqual(p.t, n, uint64(126), "length is not in its shortest form")
	case 127:
		_, err := io.ReadFull(p.br, h[:8])
		require.NoError(p.t, err)
		n = binary.BigEndian.Uint64(h[:])
		require.Greater(p.t, n, uint64(0xffff), "length is not in its shortest form")
	}
	require.Less(p.t, n, uint64(1<<30))
	if opcode >= closeOp {
		require.Equal(p.t, byte(fin), f.first&^0x0f)
		require.LessOrEqual(p.t, n, uint64(125))
	} else {
		require.NotZero(p.t, f.first&fin, "the hub must not fragment")
	}
	require.Contains(p.t, []byte{textOp, binaryOp, closeOp, pingOp, pongOp}, opcode)
	f.payload = make([]byte, n)
	if _, err := io.ReadFull(p.br, f.payload); err != nil {
		return f, fmt.Errorf("truncated frame: %w", err)
	}
	if f.deflated() {
		require.Contains(p.t, p.header.Get("Sec-WebSocket-Extensions"), "permessage-deflate")
		b, err := inflate(f.payload)
		require.NoError(p.t, err)
		f.payload = b
	}
	p.closed = opcode == closeOp
	return f, nil
}

// rest reads all frames until the connection ends. The connection must not end
// inside a frame.
func (p *rawPeer) rest() (frames []rawFrame) {
	p.t.Helper()
	for {
		f, err := p.next()
		if errors.Is(err, io.EOF) {
			return frames
		}
		require.NoError(p.t, err, "after %q", frames)
		frames = append(frames, f)
	}
}

// require reads one frame and compares it.
func (p *rawPeer) require(first byte, payload string) {
	p.t.Helper()
	f, err := p.next()
	require.NoError(p.t, err)
	require.Equal(p.t, first, f.first)
	require.Equal(p.t, payload, string(f.payload))
}

// requireEnd reads until the connection ends. The last frame must be a Close frame
// with this code. requireEnd returns its reason.
func (p *rawPeer) requireEnd(code int) string {
	p.t.Helper()
	frames := p.rest()
	require.NotEmpty(p.t, frames, "no Close frame")
	got, reason := closeOf(p.t, frames[len(frames)-1])
	require.Equal(p.t, code, got, reason)
	return reason
}

// closeOf parses a Close frame.
func closeOf(t testing.TB, f rawFrame) (code int, reason string) {
	t.Helper()
	require.Equal(t, byte(fin|closeOp), f.first, "%q", f.payload)
	if len(f.payload) == 0 {
		return websocket.CloseNoStatusReceived, ""
	}
	require.GreaterOrEqual(t, len(f.payload), 2)
	return int(binary.BigEndian.Uint16(f.payload)), string(f.payload[2:])
}

// Client frames and parts of them.
var (
	frameOf    = wsprototest.Frame
	headerOf   = wsprototest.Header
	masked     = wsprototest.Masked
	closeFrame = wsprototest.CloseFrame
	fragments  = wsprototest.Fragments
	chopped    = wsprototest.Chopped
	deflated   = wsprototest.Deflated
)

func textFrame(payload string) string { return frameOf(fin|textOp, payload) }
func pingFrame(payload string) string { return frameOf(fin|pingOp, payload) }
func pongFrame(payload string) string { return frameOf(fin|pongOp, payload) }

// inflate is the inverse of deflated. b must be a complete message.
func inflate(b []byte) ([]byte, error) {
	return io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(b), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))))
}

// rawCodec uses a message's Data as the payload, so that a test can send and
// receive any bytes.
type rawCodec struct {
	name   string
	index  int
	opcode int
}

var (
	rawText   = rawCodec{"raw.text", 10, websocket.TextMessage}
	rawBinary = rawCodec{"raw.binary", 11, websocket.BinaryMessage}
)

func (c rawCodec) Name() string                                 { return c.name }
func (c rawCodec) Index() int                                   { return c.index }
func (c rawCodec) WebSocketMessageType() int                    { return c.opcode }
func (c rawCodec) Marshal(m *websocket.Message) ([]byte, error) { return bytes.Clone(m.Data), nil }
func (c rawCodec) Unmarshal(b []byte, m *websocket.Message) error {
	*m = websocket.Message{Type: "raw", Data: bytes.Clone(b)}
	return nil
}

// rawConfig returns the default configuration with the raw codecs added.
func rawConfig() websocket.Config {
	config := websocket.DefaultConfig
	config.Subprotocols = nil
	config.Codecs = []websocket.Codec{
		websocket.JSONCodec{}, websocket.ProtobufCodec{}, websocket.FlatBuffersCodec{}, websocket.MsgpackCodec{}, rawText, rawBinary,
	}
	config.MaxMessageSize = 1 << 20
	config.ClientBacklog = 16 << 20
	return config
}

// echoHub is a hub that sends every message back to its sender. It records the
// messages and the CloseError of the client under test.
type echoHub struct {
	*fakeHub
	seen  inbox[string]
	ended chan *websocket.CloseError
}

// underTest marks the client that an echoHub records.
const underTest = "X-Under-Test: yes"

func runEcho(t *testing.T, p path, config websocket.Config) *echoHub {
	t.Helper()
	e := &echoHub{seen: inbox[string]{ready: make(chan struct{}, 1)}, ended: make(chan *websocket.CloseError, 1)}
	tested := func(c *websocket.Client) bool { return c.Request().Header.Get("X-Under-Test") != "" }
	e.fakeHub = runFake(t, p, config, func(h *websocket.Hub) {
		h.SetCallbacks(nil, func(c *websocket.Client) {
			if tested(c) {
				e.ended <- closeErrorOf(c)
			}
		}, func(c *websocket.Client, m *websocket.Message) {
			if tested(c) {
				e.seen.put(string(m.Data))
			}
			_ = c.Send(&websocket.Message{Data: m.Data}) // fails only if c is closing
		})
	})
	return e
}

// bystander connects a second client. The client under test must not affect it.
func (e *echoHub) bystander() *rawPeer {
	return e.raw(handshakeOf(protocolHeader(rawText.name))).requireOpen()
}

// requireUndisturbed checks that the hub still serves p, and closes p.
func (p *rawPeer) requireUndisturbed() {
	p.t.Helper()
	p.write(textFrame("still here") + pingFrame("me too"))
	got := map[string]bool{}
	for range 2 {
		f, err := p.next()
		require.NoError(p.t, err)
		got[fmt.Sprintf("%x %s", f.first, f.payload)] = true
	}
	require.Equal(p.t, map[string]bool{"81 still here": true, "8a me too": true}, got)
	p.write(closeFrame(1000, ""))
	require.Empty(p.t, p.requireEnd(1000))
	_ = p.nc.Close()
}

// conformanceCase is a stream of frames and the hub's expected reaction.
type conformanceCase struct {
	name   string // begins with the RFC and its section
	offer  string // extensions that the client offers
	codec  rawCodec
	stream string
	want   []string // messages that the hub must process
	pongs  []string // allowed pongs; if the connection stays open, the last one is required
	code   int      // of the hub's Close frame; 0 if the connection stays open
	reason string   // part of the hub's reason; empty if the peer closes first
	long   bool     // too long to be written one byte at a time
}

func (tt *conformanceCase) run(t *testing.T, p path, piece int) {
	if tt.codec == (rawCodec{}) {
		tt.codec = rawText
	}
	hub := runEcho(t, p, rawConfig())
	defer hub.stop()
	other := hub.bystander()
	server, client := testnet.Pair(1 << 20)
	served := hub.accept(server)
	headers := []string{protocolHeader(tt.codec.name), underTest}
	if tt.offer != "" {
		headers = append(headers, "Sec-WebSocket-Extensions: "+tt.offer)
	}
	peer := rawOver(t, client, handshakeOf(headers...)).requireOpen()
	<-served
	switch {
	case piece > 0:
		client.SetWindow(piece)
	case tt.long:
		client.SetWindow(32 << 10)
	}
	start := time.Now()
	written := make(chan struct{}) // closed by the writer, received below
	go func() {                    // ends when the hub has read the stream or closed the connection
		defer close(written)
		peer.write(tt.stream)
	}()
	synctest.Wait()
	wantCode := tt.code
	if tt.code == 0 {
		<-written
		time.Sleep(lingering - websocket.CloseLinger)
		peer.write(closeFrame(1000, "done"))
		wantCode = 1000
	}
	frames := peer.rest()
	require.LessOrEqual(t, time.Since(start), lingering, "the connection ended too late")
	<-written
	ended := <-hub.ended
	other.requireUndisturbed()
	_ = client.Close()

	require.NotEmpty(t, frames, "no Close frame")
	code, reason := closeOf(t, frames[len(frames)-1])
	require.Equal(t, wantCode, code, reason)
	require.Equal(t, wantCode, ended.Code)
	require.Equal(t, tt.reason == "", ended.ByPeer)
	if tt.reason == "" {
		require.Empty(t, reason, "the answer to a Close frame must have no reason")
	} else {
		require.Contains(t, reason, tt.reason)
	}
	require.True(t, slices.Equal(tt.want, hub.seen.items), "processed %.200q, want %.200q", hub.seen.items, tt.want)
	tt.checkFrames(t, frames[:len(frames)-1])
}

// checkFrames checks the hub's frames before its Close frame.
func (tt *conformanceCase) checkFrames(t *testing.T, frames []rawFrame) {
	t.Helper()
	var echoes, pongs []string
	for _, f := range frames {
		switch f.first & 0x0f {
		case pongOp:
			pongs = append(pongs, string(f.payload))
		default:
			require.EqualValues(t, tt.codec.opcode, f.first&0x0f)
			echoes = append(echoes, string(f.payload))
		}
	}
	if tt.code == 0 {
		require.True(t, slices.Equal(tt.want, echoes), "echoes %.200q, want %.200q", echoes, tt.want)
		if len(tt.pongs) > 0 {
			require.NotEmpty(t, pongs, "no pong")
			require.Equal(t, tt.pongs[len(tt.pongs)-1], pongs[len(pongs)-1], "the latest ping must be answered")
		}
	} else {
		require.LessOrEqual(t, len(echoes), len(tt.want))
		require.Subset(t, tt.want[:len(echoes)], echoes, "echoes before the Close frame")
	}
	left := tt.pongs
	for _, pong := range pongs { // in order and without repetition
		for len(left) > 0 && left[0] != pong {
			left = left[1:]
		}
		require.NotEmpty(t, left, "pong %q answers no ping", pong)
		left = left[1:]
	}
}

// pieces returns the write sizes to run the case with. 0 writes the whole stream
// at once.
func (tt *conformanceCase) pieces() []int {
	if tt.long {
		return []int{0, 997}
	}
	return []int{0, 1}
}

func runConformance(t *testing.T, tests []conformanceCase) {
	t.Parallel()
	seen := map[string]bool{}
	for _, tt := range tests {
		require.False(t, seen[tt.name], "two cases have the name %s", tt.name)
		seen[tt.name] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			onBothPaths(t, func(t *testing.T, p path) {
				for _, piece := range tt.pieces() {
					t.Run(fmt.Sprintf("piece=%d", piece), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) { tt.run(t, p, piece) })
					})
				}
			})
		})
	}
}

// before and after surround a violation. The hub must process before and ignore
// after.
var (
	before = textFrame("before")
	after  = textFrame("after")
)

// wrong returns a case whose stream violates a rule between before and after.
func wrong(name, middle string, code int, reason string) conformanceCase {
	return conformanceCase{name: name, stream: before + middle + after, want: []string{"before"}, code: code, reason: reason}
}

func TestConformanceFraming(t *testing.T) {
	var tests []conformanceCase
	for _, codec := range []rawCodec{rawText, rawBinary} {
		for _, size := range []int{0, 1, 125, 126, 127, 128, 65535, 65536} {
			payload := strings.Repeat("*", size)
			tests = append(tests, conformanceCase{
				name: fmt.Sprintf("6455/5.6/%s of %d bytes", codec.name, size), codec: codec, long: size > 1000,
				stream: frameOf(fin|byte(codec.opcode), payload) + frameOf(fin|byte(codec.opcode), "next"),
				want:   []string{payload, "next"},
			})
		}
	}
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	unmasked := headerOf(fin|textOp, 0, 5, 0) + "Hello"
	tests = append(tests,
		conformanceCase{name: "6455/5.6/every byte in binary", codec: rawBinary, stream: frameOf(fin|binaryOp, string(every)), want: []string{string(every)}},
		conformanceCase{name: "6455/5.3/zero masking key", stream: headerOf(fin|textOp, 0x80, 5, 0) + "\x00\x00\x00\x00Hello", want: []string{"Hello"}},
		wrong("6455/5.1/text not masked", unmasked, 1002, "masked"),
		wrong("6455/5.1/empty text not masked", headerOf(fin|textOp, 0, 0, 0), 1002, "masked"),
		wrong("6455/5.1/ping not masked", headerOf(fin|pingOp, 0, 0, 0), 1002, "masked"),
		wrong("6455/5.1/Close not masked", headerOf(fin|closeOp, 0, 2, 0)+"\x03\xe8", 1002, "masked"),
		wrong("6455/5.1/continuation not masked", frameOf(textOp, "a")+headerOf(fin, 0, 1, 0)+"b", 1002, "masked"),
		wrong("6455/5.2/125 bytes with 16-bit length", headerOf(fin|textOp, 0x80, 125, 3)+masked(strings.Repeat("x", 125)), 1002, "shortest"),
		wrong("6455/5.2/0 bytes with 16-bit length", headerOf(fin|textOp, 0x80, 0, 3)+masked(""), 1002, "shortest"),
		wrong("6455/5.2/125 bytes with 64-bit length", headerOf(fin|textOp, 0x80, 125, 9)+masked(strings.Repeat("x", 125)), 1002, "shortest"),
		wrong("6455/5.2/65535 bytes with 64-bit length", headerOf(fin|textOp, 0x80, 65535, 9)+masked(strings.Repeat("x", 300)), 1002, "shortest"),
		wrong("6455/5.2/continuation with 16-bit length", frameOf(textOp, "a")+headerOf(fin, 0x80, 1, 3)+masked("b"), 1002, "shortest"),
		wrong("6455/5.2/length with its top bit", headerOf(fin|textOp, 0x80, 1<<63, 9)+masked("x"), 1002, "top bit"),
		wrong("6455/5.2/length of all ones", headerOf(fin|textOp, 0x80, 1<<64-1, 9)+masked("x"), 1002, "top bit"),
		wrong("6455/5.2/largest length", headerOf(fin|textOp, 0x80, 1<<63-1, 9)+masked("x"), 1009, "larger than"),
		wrong("6455/5.2/largest length of a continuation", frameOf(textOp, "a")+headerOf(fin, 0x80, 1<<63-1, 9)+masked("x"), 1009, "larger than"),
	)
	runConformance(t, tests)
}

func TestConformancePings(t *testing.T) {
	longest := strings.Repeat("\xfe", 125)
	ten, tenOf := "", []string{}
	for i := range 10 {
		tenOf = append(tenOf, fmt.Sprintf("ping %d", i))
		ten += pingFrame(tenOf[i])
	}
	runConformance(t, []conformanceCase{
		{name: "6455/5.5.2/empty", stream: pingFrame(""), pongs: []string{""}},
		{name: "6455/5.5.2/payload", stream: pingFrame("Hello"), pongs: []string{"Hello"}},
		{name: "6455/5.5.2/binary payload", stream: pingFrame("\x00\xff\xfe\xfd"), pongs: []string{"\x00\xff\xfe\xfd"}},
		{name: "6455/5.5.2/125 bytes", stream: pingFrame(longest), pongs: []string{longest}},
		wrong("6455/5.5/ping of 126 bytes", frameOf(fin|pingOp, longest+"x"), 1002, "125"),
		{
			name: "6455/5.5/ping of 65536 bytes", stream: before + frameOf(fin|pingOp, strings.Repeat("x", 65536)) + after,
			want: []string{"before"}, code: 1002, reason: "125", long: true,
		},
		wrong("6455/5.5/pong of 126 bytes", frameOf(fin|pongOp, longest+"x"), 1002, "125"),
		wrong("6455/5.5/ping with 16-bit length", headerOf(fin|pingOp, 0x80, 5, 3)+masked("Hello"), 1002, "125"),
		wrong("6455/5.5/ping with 64-bit length", headerOf(fin|pingOp, 0x80, 5, 9)+masked("Hello"), 1002, "125"),
		wrong("6455/5.5/fragmented ping", frameOf(pingOp, "a")+frameOf(fin, "b"), 1002, "control frame is fragmented"),
		wrong("6455/5.5/fragmented pong", frameOf(pongOp, ""), 1002, "control frame is fragmented"),
		wrong("6455/5.5/fragmented Close", frameOf(closeOp, "\x03\xe8"), 1002, "control frame is fragmented"),
		{name: "6455/5.5.2/ten at once", stream: ten, pongs: tenOf},
		{name: "6455/5.5.2/between messages", stream: before + pingFrame("p") + after, want: []string{"before", "after"}, pongs: []string{"p"}},
		{name: "6455/5.5.3/unsolicited pong", stream: pongFrame("unasked") + after, want: []string{"after"}},
		{name: "6455/5.5.3/unsolicited empty pong", stream: pongFrame("") + after, want: []string{"after"}},
		{name: "6455/5.5.3/unsolicited pong then ping", stream: pongFrame("unasked") + pingFrame("p"), pongs: []string{"p"}},
		{name: "6455/5.5.3/pongs inside a message", stream: frameOf(textOp, "a") + pongFrame("x") + frameOf(contOp, "b") + pongFrame("") + frameOf(fin, "c"), want: []string{"abc"}},
	})
}

// TestConformancePongBeforeClose sends the Close frame after the hub has read the
// ping. The hub must send the pong first (RFC 6455 section 5.5.2), also on a new
// connection.
func TestConformancePongBeforeClose(t *testing.T) {
	t.Parallel()
	for _, age := range []time.Duration{0, time.Second} {
		onBothPaths(t, func(t *testing.T, p path) {
			t.Run(age.String(), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					hub := runEcho(t, p, rawConfig())
					defer hub.stop()
					peer := hub.raw(handshakeOf(protocolHeader(rawText.name), underTest)).requireOpen()
					time.Sleep(age)
					peer.write(pingFrame("p"))
					synctest.Wait()
					peer.write(closeFrame(1000, ""))
					frames := peer.rest()
					_ = peer.nc.Close()
					require.Len(t, frames, 2)
					require.Equal(t, rawFrame{fin | pongOp, []byte("p")}, frames[0])
				})
			})
		})
	}
}

func TestConformanceReservedBits(t *testing.T) {
	var tests []conformanceCase
	for bits, name := range map[byte]string{
		rsv1: "rsv1", rsv2: "rsv2", rsv3: "rsv3", rsv1 | rsv2: "rsv1 and rsv2", rsv1 | rsv3: "rsv1 and rsv3",
		rsv2 | rsv3: "rsv2 and rsv3", rsv1 | rsv2 | rsv3: "all",
	} {
		for opcode, kind := range map[byte]string{textOp: "text", binaryOp: "binary", closeOp: "Close", pingOp: "ping", pongOp: "pong"} {
			tests = append(tests, wrong("6455/5.2/"+name+" on "+kind, frameOf(fin|bits|opcode, "\x03\xe8"), 1002, "reserved bit"))
		}
		tests = append(tests,
			wrong("6455/5.2/"+name+" on the last fragment", frameOf(textOp, "a")+frameOf(fin|bits, "b"), 1002, "reserved bit"),
			wrong("6455/5.2/"+name+" on a middle fragment", frameOf(textOp, "a")+frameOf(bits, "b"), 1002, "reserved bit"),
			wrong("6455/5.2/"+name+" on the first fragment", frameOf(textOp|bits, "a"), 1002, "reserved bit"),
		)
		if bits != rsv1 {
			deflate := wrong("7692/6/"+name+" with deflate", frameOf(fin|bits|textOp, deflated("Hello", 1)), 1002, "reserved bit")
			deflate.offer = "permessage-deflate"
			tests = append(tests, deflate)
		}
	}
	runConformance(t, tests)
}

func TestConformanceOpcodes(t *testing.T) {
	var tests []conformanceCase
	for _, opcode := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		for kind, frame := range map[string]string{
			"empty":        frameOf(fin|opcode, ""),
			"with payload": frameOf(fin|opcode, "reserved"),
			"not final":    frameOf(opcode, "reserved"),
			"in a message": frameOf(textOp, "a") + frameOf(fin|opcode, "b") + frameOf(fin, "c"),
		} {
			tests = append(tests, wrong(fmt.Sprintf("6455/5.2/opcode %d %s", opcode, kind), frame, 1002, "reserved opcode"))
		}
	}
	tests = append(tests,
		wrong("6455/7.4.1/binary to a text codec", frameOf(fin|binaryOp, "x"), 1003, "text frames"),
		wrong("6455/7.4.1/fragmented binary to a text codec", fragments(binaryOp, "x", "y"), 1003, "text frames"),
		conformanceCase{
			name: "6455/7.4.1/text to a binary codec", codec: rawBinary,
			stream: frameOf(fin|binaryOp, "before") + textFrame("x") + frameOf(fin|binaryOp, "after"),
			want:   []string{"before"}, code: 1003, reason: "binary frames",
		},
	)
	runConformance(t, tests)
}

func TestConformanceFragmentation(t *testing.T) {
	big := strings.Repeat("0123456789", 10_000)
	wrongAfter := func(name, stream string, want ...string) conformanceCase {
		return conformanceCase{name: name, stream: stream, want: want, code: 1002, reason: "message"}
	}
	runConformance(t, []conformanceCase{
		{name: "6455/5.4/two fragments", stream: fragments(textOp, "frag", "ment"), want: []string{"fragment"}},
		{name: "6455/5.4/empty first", stream: fragments(textOp, "", "ment"), want: []string{"ment"}},
		{name: "6455/5.4/empty last", stream: fragments(textOp, "frag", ""), want: []string{"frag"}},
		{name: "6455/5.4/empty middle", stream: fragments(textOp, "frag", "", "ment"), want: []string{"fragment"}},
		{name: "6455/5.4/all empty", stream: fragments(textOp, "", "", "") + after, want: []string{"", "after"}},
		{name: "6455/5.4/one byte each", stream: fragments(textOp, chopped("fragments", 1)...), want: []string{"fragments"}},
		{name: "6455/5.4/ping inside", stream: frameOf(textOp, "frag") + pingFrame("p") + frameOf(fin, "ment"), want: []string{"fragment"}, pongs: []string{"p"}},
		{
			name:   "6455/5.4/pings between all fragments of two messages",
			stream: frameOf(textOp, "a") + pingFrame("1") + frameOf(contOp, "b") + pingFrame("2") + frameOf(fin, "c") + pingFrame("3") + frameOf(textOp, "d") + pingFrame("4") + frameOf(fin, "e"),
			want:   []string{"abc", "de"}, pongs: []string{"1", "2", "3", "4"},
		},
		{name: "6455/5.4/large in pieces of 997", stream: fragments(textOp, chopped(big, 997)...), want: []string{big}, long: true},
		{name: "6455/5.4/128 empty fragments", stream: frameOf(textOp, "") + strings.Repeat(frameOf(contOp, ""), 127) + frameOf(fin, "x"), want: []string{"x"}},
		{name: "6455/5.4/empty fragments without end", stream: before + frameOf(textOp, "") + strings.Repeat(frameOf(contOp, ""), 1000), want: []string{"before"}, code: 1008, reason: "empty fragments"},
		{
			name:   "6455/5.4/empty fragments among others",
			stream: before + frameOf(textOp, "x") + strings.Repeat(frameOf(contOp, "")+frameOf(contOp, "y"), 500),
			want:   []string{"before"}, code: 1008, reason: "empty fragments",
		},
		{
			name:   "6455/5.4/empty fragments are counted for each message",
			stream: strings.Repeat(frameOf(textOp, "")+strings.Repeat(frameOf(contOp, ""), 100)+frameOf(fin, ""), 3), want: []string{"", "", ""},
		},
		wrongAfter("6455/5.4/continuation at the start", frameOf(fin, "x")+after),
		wrongAfter("6455/5.4/continuation not final at the start", frameOf(contOp, "x")+frameOf(fin, "y")+after),
		wrongAfter("6455/5.4/continuation after a whole message", before+frameOf(fin, "x")+after, "before"),
		wrongAfter("6455/5.4/continuation after the last fragment", fragments(textOp, "a", "b")+frameOf(contOp, "x")+after, "ab"),
		wrongAfter("6455/5.4/continuation after a pong", before+pongFrame("")+frameOf(fin, "x")+after, "before"),
		wrongAfter("6455/5.4/text inside a message", frameOf(textOp, "a")+textFrame("b")+frameOf(fin, "c")),
		wrongAfter("6455/5.4/binary inside a message", frameOf(textOp, "a")+frameOf(fin|binaryOp, "b")),
		wrongAfter("6455/5.4/second first fragment", frameOf(textOp, "a")+frameOf(textOp, "b")),
		{name: "6455/5.4/Close inside a message", stream: before + frameOf(textOp, "a") + closeFrame(1000, ""), want: []string{"before"}, code: 1000},
	})
}

func TestConformanceUTF8(t *testing.T) {
	var tests []conformanceCase
	for _, valid := range []string{
		"Hello-µ@ßöäüàá-UTF-8!!", "κόσμε", "\x00", "\u0080", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\ufffd", "\ufffe", "\uffff",
		"\U00010000", "\U0001fffe", "\U0001ffff", "\U0010fffe", "\U0010ffff", "\u00c3\u0083", "\ufeff", strings.Repeat("κόσμε", 200),
	} {
		name := fmt.Sprintf("%.12x", valid)
		tests = append(tests,
			conformanceCase{name: "6455/8.1/valid " + name, stream: textFrame(valid), want: []string{valid}},
			conformanceCase{name: "6455/8.1/valid in fragments of a byte " + name, stream: fragments(textOp, chopped(valid, 1)...), want: []string{valid}, long: len(valid) > 100},
		)
	}
	for _, invalid := range []string{
		"\x80", "\xbf", "\x80\xbf\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x80\xaf", "\xe0\x9f\xbf", "\xf0\x80\x80\xaf", "\xf0\x8f\xbf\xbf",
		"\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80", "\xf4\x90\x80\x80", "\xf7\xbf\xbf\xbf", "\xfe", "\xff", "\xfe\xfe\xff\xff",
		"\xed\xa0\x80", "\xed\xbf\xbf", "\xed\xa0\x80\xed\xb0\x80", "\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
		"\xc3\x28", "\xe2\x28\xa1", "\xe2\x82\x28", "\xf0\x28\x8c\xbc", "\xf0\x90\x28\xbc", "\xf0\x28\x8c\x28",
	} {
		name := fmt.Sprintf("%x", invalid)
		tests = append(tests,
			wrong("6455/8.1/invalid "+name, textFrame("text "+invalid+" text"), 1007, "UTF-8"),
			wrong("6455/8.1/invalid at the end "+name, textFrame("text"+invalid), 1007, "UTF-8"),
			wrong("6455/8.1/invalid in fragments of a byte "+name, fragments(textOp, chopped(invalid, 1)...), 1007, "UTF-8"),
		)
	}
	deflate := wrong("7692/6/invalid after inflating", frameOf(fin|rsv1|textOp, deflated("text \xff", 6)), 1007, "UTF-8")
	deflate.offer = "permessage-deflate"
	tests = append(tests, deflate,
		wrong("6455/8.1/code point begun in one message and ended in the next", textFrame("\xc3")+textFrame("\xa4"), 1007, "UTF-8"),
		conformanceCase{name: "6455/8.1/ping inside a code point", stream: frameOf(textOp, "\xe2\x82") + pingFrame("\xe2") + frameOf(fin, "\xac"), want: []string{"€"}, pongs: []string{"\xe2"}},
		conformanceCase{name: "6455/8.1/binary need not be UTF-8", codec: rawBinary, stream: frameOf(fin|binaryOp, "\xff\xc0"), want: []string{"\xff\xc0"}},
	)
	runConformance(t, tests)
}

func TestConformanceClose(t *testing.T) {
	answered := func(name, frame string, code int) conformanceCase {
		return conformanceCase{name: name, stream: before + frame, want: []string{"before"}, code: code}
	}
	bye := closeFrame(1000, "bye")
	tests := []conformanceCase{
		answered("6455/5.5.1/without code", frameOf(fin|closeOp, ""), 1005),
		answered("6455/5.5.1/without reason", closeFrame(1000, ""), 1000),
		answered("6455/5.5.1/reason", bye, 1000),
		answered("6455/5.5.1/reason of 123 bytes", closeFrame(1000, strings.Repeat("r", 123)), 1000),
		answered("6455/5.5.1/reason of many code points", closeFrame(1000, strings.Repeat("€", 41)), 1000),
		wrong("6455/5.5.1/reason of 124 bytes", frameOf(fin|closeOp, "\x03\xe8"+strings.Repeat("r", 124)), 1002, "125"),
		wrong("6455/5.5.1/payload of one byte", frameOf(fin|closeOp, "\x03"), 1002, "half a status code"),
		wrong("6455/5.5.1/reason not UTF-8", closeFrame(1000, "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80"), 1002, "utf8"),
		wrong("6455/5.5.1/reason cut inside a code point", closeFrame(1000, "\xe2\x82"), 1002, "utf8"),
		answered("6455/5.5.1/text after it", bye+after, 1000),
		answered("6455/5.5.1/ping after it", bye+pingFrame("p"), 1000),
		answered("6455/5.5.1/second Close after it", bye+closeFrame(1001, ""), 1000),
		answered("6455/5.5.1/fragment after it", bye+frameOf(textOp, "a"), 1000),
		answered("6455/5.5.1/garbage after it", bye+"\xff\xff\xff\xff\xff\xff", 1000),
		answered("6455/5.5.1/inside a message with a ping after it", frameOf(textOp, "a")+bye+pingFrame("p"), 1000),
	}
	tests[len(tests)-1].want = []string{"before"}
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999} {
		tests = append(tests, answered(fmt.Sprintf("6455/7.4/code %d", code), closeFrame(code, "why"), code))
	}
	for _, code := range []int{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		tests = append(tests,
			wrong(fmt.Sprintf("6455/7.4/code %d", code), closeFrame(code, ""), 1002, strconv.Itoa(code)),
			wrong(fmt.Sprintf("6455/7.4/code %d with reason", code), closeFrame(code, "why"), 1002, strconv.Itoa(code)),
		)
	}
	runConformance(t, tests)
}

// lingering is the longest time between the hub's Close frame and the end of the
// connection: the peer's time to answer, and a margin for the hub's timer.
const lingering = websocket.CloseLinger + 20*time.Millisecond

// TestConformanceClosingHandshake closes connections from the hub and varies the
// peer's answer (RFC 6455 sections 5.5.1 and 7.1.1).
func TestConformanceClosingHandshake(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		answer string
		wait   time.Duration
	}{
		{"6455/7.1.1/answered", closeFrame(4000, ""), 0},
		{"6455/7.1.1/answered with another code", closeFrame(1000, "too"), 0},
		{"6455/7.1.1/answered without code", frameOf(fin|closeOp, ""), 0},
		{"6455/7.1.1/answered behind more data", after + pingFrame("p") + closeFrame(4000, ""), 0},
		{"6455/7.1.1/not answered", "", websocket.CloseLinger},
		{"6455/7.1.1/data instead of an answer", strings.Repeat(after, 100), websocket.CloseLinger},
		{"6455/7.1.7/garbage instead of an answer", frameOf(fin|3, "") + "\x00\x00\x00", websocket.CloseLinger},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			onBothPaths(t, func(t *testing.T, p path) {
				synctest.Test(t, func(t *testing.T) {
					hub := runEcho(t, p, rawConfig())
					defer hub.stop()
					peer := hub.raw(handshakeOf(protocolHeader(rawText.name), underTest)).requireOpen()
					for c := range hub.Clients() {
						require.NoError(t, c.Close(4000, "enough"))
					}
					f, err := peer.next()
					require.NoError(t, err)
					code, reason := closeOf(t, f)
					require.Equal(t, 4000, code)
					require.Equal(t, "enough", reason)
					start := time.Now()
					peer.write(tt.answer)
					require.Empty(t, peer.rest())
					require.LessOrEqual(t, time.Since(start), tt.wait)
					require.Equal(t, &websocket.CloseError{Code: code, Reason: reason}, <-hub.ended)
					require.Empty(t, hub.seen.items, "the hub processed messages after its Close frame")
					_ = peer.nc.Close()
				})
			})
		})
	}
}

func TestConformanceMessageSize(t *testing.T) {
	var tests []conformanceCase
	for _, size := range []int{256 << 10, 1 << 20} {
		payload := strings.Repeat("*", size)
		tests = append(tests, conformanceCase{name: fmt.Sprintf("6455/10.4/whole %d", size), stream: textFrame(payload), want: []string{payload}, long: true})
		for _, piece := range []int{1 << 10, 16 << 10, 64 << 10} {
			tests = append(tests, conformanceCase{
				name:   fmt.Sprintf("6455/10.4/%d in fragments of %d", size, piece),
				stream: fragments(textOp, chopped(payload, piece)...), want: []string{payload}, long: true,
			})
		}
	}
	large := strings.Repeat("*", 1<<20)
	tests = append(tests,
		conformanceCase{name: "6455/10.4/one byte too many", stream: before + textFrame(large+"x"), want: []string{"before"}, code: 1009, reason: "1048576 bytes", long: true},
		conformanceCase{
			name: "6455/10.4/one byte too many in fragments", stream: before + fragments(textOp, append(chopped(large, 64<<10), "x")...),
			want: []string{"before"}, code: 1009, reason: "1048576 bytes", long: true,
		},
	)
	runConformance(t, tests)
}

func TestConformanceDeflate(t *testing.T) {
	text := strings.Repeat("permessage-deflate ", 100)
	hello := "\xf2\x48\xcd\xc9\xc9\x07\x00"
	finalHello := "\xf3\x48\xcd\xc9\xc9\x07\x00"
	c := func(name, stream string, want ...string) conformanceCase {
		return conformanceCase{name: name, offer: "permessage-deflate", stream: stream, want: want}
	}
	rejected := func(name, middle string, code int, reason string) conformanceCase {
		tt := wrong(name, middle, code, reason)
		tt.offer = "permessage-deflate"
		return tt
	}
	zipped := func(payload string) string { return frameOf(fin|rsv1|textOp, payload) }
	tests := []conformanceCase{
		c("7692/7.2.3.1/whole", zipped(hello), "Hello"),
		c("7692/7.2.3.1/fragmented", fragments(textOp|rsv1, hello[:3], hello[3:]), "Hello"),
		c("7692/7.2.3.1/fragments of a byte", fragments(textOp|rsv1, chopped(hello, 1)...), "Hello"),
		c("7692/7.2.3.1/empty fragments", fragments(textOp|rsv1, "", hello[:3], "", hello[3:], ""), "Hello"),
		c("7692/7.2.3.3/no compression", zipped("\x00\x05\x00\xfa\xffHello\x00"), "Hello"),
		c("7692/7.2.3.4/final block", zipped(finalHello+"\x00"), "Hello"),
		c("7692/7.2.3.5/two blocks", zipped("\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"), "Hello"),
		c("7692/7.2.3.6/empty message", zipped("\x00")+after, "", "after"),
		c("7692/7.2.1/another block after a final one", zipped(finalHello+finalHello+"\x00")+after, "HelloHello", "after"),
		c("7692/6/not compressed", after+zipped(hello), "after", "Hello"),
		c("7692/6/mixed", zipped(hello)+after+zipped(deflated(text, 9)), "Hello", "after", text),
		c("7692/6/not compressed and fragmented", fragments(textOp, "a", "b"), "ab"),
		rejected("7692/7.2.3.2/window of the message before", zipped(hello)+zipped("\xf2\x00\x11\x00\x00"), 1007, "compressed data is corrupt"),
		rejected("7692/6.1/ping compressed", frameOf(fin|rsv1|pingOp, hello), 1002, "RSV1"),
		rejected("7692/6.1/pong compressed", frameOf(fin|rsv1|pongOp, ""), 1002, "RSV1"),
		rejected("7692/6.1/Close compressed", frameOf(fin|rsv1|closeOp, "\x03\xe8"), 1002, "RSV1"),
		rejected("7692/6.1/continuation marked", frameOf(rsv1|textOp, hello[:3])+frameOf(fin|rsv1, hello[3:]), 1002, "RSV1"),
		rejected("7692/6.1/only the continuation marked", frameOf(textOp, hello[:3])+frameOf(fin|rsv1, hello[3:]), 1002, "RSV1"),
		rejected("7692/6.2/reserved block type", zipped("\x06"), 1007, "compressed data is corrupt"),
		rejected("7692/6.2/random bytes", zipped("\xff\xff\xff\xff\xff\xff"), 1007, "compressed data is corrupt"),
		rejected("7692/6.2/cut off", zipped(hello[:3]), 1007, "compressed data is corrupt"),
		rejected("7692/6.2/stored length and its complement differ", zipped("\x00\x05\x00\x00\x00Hello\x00"), 1007, "compressed data is corrupt"),
		rejected("7692/6.2/reference before the beginning", zipped("\x02\x07\x00"), 1007, "compressed data is corrupt"),
		rejected("7692/6.2/corrupt in fragments", fragments(textOp|rsv1, "\xff\xff", "\xff\xff\xff"), 1007, "compressed data is corrupt"),
		rejected("7692/6.1/compressed binary to a text codec", frameOf(fin|rsv1|binaryOp, hello), 1003, "text frames"),
		rejected("7692/6.2/message that never ends", frameOf(rsv1|textOp, finalHello)+textFrame("new"), 1002, "new message"),
	}
	tests[12].want = []string{"before", "Hello"}
	for _, level := range []int{flate.HuffmanOnly, flate.NoCompression, flate.BestSpeed, flate.DefaultCompression, flate.BestCompression} {
		for _, size := range []int{1, 255, 256, 4 << 10, 128 << 10} {
			payload := strings.Repeat("0123456789abcdef", size/16+1)[:size]
			tests = append(tests, conformanceCase{
				name: fmt.Sprintf("7692/7.2/level %d of %d bytes", level, size), offer: "permessage-deflate", long: size > 1000,
				stream: zipped(deflated(payload, level)) + fragments(textOp|rsv1, chopped(deflated(payload, level), size/64+1)...),
				want:   []string{payload, payload},
			})
		}
	}
	tests = append(tests, conformanceCase{
		name: "7692/6/pings between compressed fragments", offer: "permessage-deflate",
		stream: frameOf(textOp|rsv1, hello[:3]) + pingFrame("1") + frameOf(contOp, hello[3:5]) + pingFrame("2") + frameOf(fin, hello[5:]),
		want:   []string{"Hello"}, pongs: []string{"1", "2"},
	})
	runConformance(t, tests)
}

// TestConformanceDeflateOffers negotiates permessage-deflate (RFC 7692 sections 5
// and 7.1).
func TestConformanceDeflateOffers(t *testing.T) {
	t.Parallel()
	const d = "permessage-deflate"
	tests := []struct {
		name   string
		offers []string // one for each header line
		agreed bool
		params []string // required in the response
	}{
		{"5/none", nil, false, nil},
		{"5/another extension", []string{"x-webkit-deflate-frame"}, false, nil},
		{"5/empty", []string{""}, false, nil},
		{"7.1/plain", []string{d}, true, nil},
		{"7.1/spaces", []string{"  " + d + " ;  client_max_window_bits  "}, true, nil},
		{"7.1.1.1/server_no_context_takeover", []string{d + "; server_no_context_takeover"}, true, []string{"server_no_context_takeover"}},
		{"7.1.1.1/server_no_context_takeover with a value", []string{d + "; server_no_context_takeover=1"}, false, nil},
		{"7.1.1.1/server_no_context_takeover with an empty value", []string{d + "; server_no_context_takeover="}, false, nil},
		{"7.1.1.2/client_no_context_takeover", []string{d + "; client_no_context_takeover"}, true, nil},
		{"7.1.1.2/client_no_context_takeover with a value", []string{d + "; client_no_context_takeover=true"}, false, nil},
		{"7.1.1/both", []string{d + "; server_no_context_takeover; client_no_context_takeover"}, true, []string{"server_no_context_takeover"}},
		{"7.1.2.1/server_max_window_bits 15", []string{d + "; server_max_window_bits=15"}, false, nil},
		{"7.1.2.1/server_max_window_bits quoted", []string{d + `; server_max_window_bits="15"`}, false, nil},
		{"7.1.2.1/server_max_window_bits 14", []string{d + "; server_max_window_bits=14"}, false, nil},
		{"7.1.2.1/server_max_window_bits 8", []string{d + "; server_max_window_bits=8"}, false, nil},
		{"7.1.2.1/server_max_window_bits 8 quoted", []string{d + `; server_max_window_bits="8"`}, false, nil},
		{"7.1.2.1/server_max_window_bits 7", []string{d + "; server_max_window_bits=7"}, false, nil},
		{"7.1.2.1/server_max_window_bits 16", []string{d + "; server_max_window_bits=16"}, false, nil},
		{"7.1.2.1/server_max_window_bits without value", []string{d + "; server_max_window_bits"}, false, nil},
		{"7.1.2.1/server_max_window_bits empty", []string{d + "; server_max_window_bits="}, false, nil},
		{"7.1.2.1/server_max_window_bits with a sign", []string{d + "; server_max_window_bits=+15"}, false, nil},
		{"7.1.2.1/server_max_window_bits with a leading zero", []string{d + "; server_max_window_bits=015"}, false, nil},
		{"7.1.2.1/server_max_window_bits with half a quote", []string{d + `; server_max_window_bits="15`}, false, nil},
		{"7.1.2.2/client_max_window_bits", []string{d + "; client_max_window_bits"}, true, nil},
		{"7.1.2.2/client_max_window_bits 15", []string{d + "; client_max_window_bits=15"}, true, nil},
		{"7.1.2.2/client_max_window_bits 8", []string{d + "; client_max_window_bits=8"}, true, nil},
		{"7.1.2.2/client_max_window_bits quoted", []string{d + `; client_max_window_bits="10"`}, true, nil},
		{"7.1.2.2/client_max_window_bits 7", []string{d + "; client_max_window_bits=7"}, false, nil},
		{"7.1.2.2/client_max_window_bits 16", []string{d + "; client_max_window_bits=16"}, false, nil},
		{"7.1.2.2/client_max_window_bits no number", []string{d + "; client_max_window_bits=ten"}, false, nil},
		{"7.1.2.2/client_max_window_bits empty", []string{d + "; client_max_window_bits="}, false, nil},
		{"7.1.2.2/client_max_window_bits with a leading zero", []string{d + "; client_max_window_bits=09"}, false, nil},
		{"7.1.2/all supported parameters", []string{d + "; server_no_context_takeover; client_no_context_takeover; client_max_window_bits=12"}, true, []string{"server_no_context_takeover"}},
		{"7.1/unknown parameter", []string{d + "; level=9"}, false, nil},
		{"7.1/unknown among known ones", []string{d + "; client_max_window_bits; mystery"}, false, nil},
		{"7.1/parameter twice", []string{d + "; client_max_window_bits; client_max_window_bits"}, false, nil},
		{"7.1/parameter twice with values", []string{d + "; client_max_window_bits=10; client_max_window_bits=11"}, false, nil},
		{"7.1/flag twice", []string{d + "; server_no_context_takeover; server_no_context_takeover"}, false, nil},
		{"7.1/name with another ending", []string{d + "2"}, false, nil},
		{"7.1/semicolon without parameter", []string{d + "; "}, false, nil},
		{"7.1/fallback in a list", []string{d + "; server_max_window_bits=9, " + d}, true, nil},
		{"7.1/fallback on another line", []string{d + "; mystery", d + "; client_max_window_bits"}, true, nil},
		{"7.1/fallback behind another extension", []string{"x-other; a=b, " + d}, true, nil},
		{"7.1/first of several", []string{d + ", " + d + "; mystery"}, true, nil},
		{"7.1/all declined", []string{d + "; server_max_window_bits=9, " + d + "; mystery"}, false, nil},
		{"9.1/name inside a quoted value", []string{`x-other; a="b, ` + d + `, c"`}, false, nil},
	}
	for _, tt := range tests {
		t.Run("7692/"+tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				hub := runEcho(t, paths[0], rawConfig())
				defer hub.stop()
				headers := []string{protocolHeader(rawText.name)}
				for _, offer := range tt.offers {
					headers = append(headers, "Sec-WebSocket-Extensions: "+offer)
				}
				peer := hub.raw(handshakeOf(headers...)).requireOpen()
				response := peer.header.Values("Sec-WebSocket-Extensions")
				text := strings.Repeat("deflate me ", 100)
				if tt.agreed {
					require.Len(t, response, 1)
					requireDeflateResponse(t, response[0], strings.Join(tt.offers, ", "), tt.params)
					peer.write(frameOf(fin|rsv1|textOp, deflated(text, 6)))
					peer.require(fin|rsv1|textOp, text)
					peer.write(textFrame("short"))
					peer.require(fin|textOp, "short")
				} else {
					require.Empty(t, response)
					peer.write(textFrame(text))
					peer.require(fin|textOp, text)
				}
				peer.write(closeFrame(1000, ""))
				peer.requireEnd(1000)
				_ = peer.nc.Close()
			})
		})
	}
	t.Run("disabled", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			config := rawConfig()
			config.EnableCompression = false
			hub := runEcho(t, paths[0], config)
			defer hub.stop()
			peer := hub.raw(handshakeOf(protocolHeader(rawText.name), "Sec-WebSocket-Extensions: "+d)).requireOpen()
			require.Empty(t, peer.header.Get("Sec-WebSocket-Extensions"))
			peer.write(frameOf(fin|rsv1|textOp, deflated("Hello", 6)))
			require.Contains(t, peer.requireEnd(1002), "RSV1")
			_ = peer.nc.Close()
		})
	})
}

// requireDeflateResponse checks a response against RFC 7692 section 7.1: each
// parameter is known, occurs once and was allowed by the client.
func requireDeflateResponse(t *testing.T, response, offers string, want []string) {
	t.Helper()
	parts := strings.Split(response, ";")
	require.Equal(t, "permessage-deflate", strings.TrimSpace(parts[0]))
	var params []string
	for _, part := range parts[1:] {
		part = strings.TrimSpace(part)
		name, _, _ := strings.Cut(part, "=")
		require.NotContains(t, params, part, "repeated parameter")
		require.Contains(t, []string{"server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits", "client_max_window_bits"}, name)
		if name == "client_max_window_bits" {
			require.Contains(t, offers, name, "the client did not allow it")
		}
		params = append(params, part)
	}
	for _, param := range want {
		require.Contains(t, params, param)
	}
}

func TestConformanceHandshake(t *testing.T) {
	t.Parallel()
	// change replaces a header of a correct request. An empty value removes it.
	change := func(name, value string) string {
		var lines []string
		for line := range strings.SplitSeq(strings.TrimSuffix(handshakeOf(), "\r\n\r\n"), "\r\n") {
			if !strings.HasPrefix(line, name+":") {
				lines = append(lines, line)
			}
		}
		if value != "" {
			lines = append(lines, name+": "+value)
		}
		return requestOf(lines...)
	}
	with := func(lines ...string) string { return handshakeOf(lines...) }
	method := func(line string) string { return strings.Replace(handshakeOf(), "GET / HTTP/1.1", line, 1) }
	tests := []struct {
		name    string
		request string
		status  int
		header  string // expected in the response as "Name: value"; empty to skip
	}{
		{"6455/4.2.1/correct", with(), 101, ""},
		{"6455/4.2.1/path and query", method("GET /chat/room?x=1 HTTP/1.1"), 101, ""},
		{"6455/4.2.1/post", method("POST / HTTP/1.1"), 405, "Allow: GET"},
		{"6455/4.2.1/head", method("HEAD / HTTP/1.1"), 405, ""},
		{"6455/4.2.1/put", method("PUT / HTTP/1.1"), 405, ""},
		{"6455/4.2.1/HTTP 1.0", method("GET / HTTP/1.0"), 400, ""},
		{"6455/4.2.1/no Upgrade", change("Upgrade", ""), 426, "Upgrade: websocket"},
		{"6455/4.2.1/another Upgrade", change("Upgrade", "h2c"), 426, "Upgrade: websocket"},
		{"6455/4.2.1/Upgrade with a longer token", change("Upgrade", "websocket2"), 426, "Upgrade: websocket"},
		{"6455/4.2.1/Upgrade in odd case", change("Upgrade", "WebSOCKET"), 101, ""},
		{"6455/4.2.1/Upgrade in a list", change("Upgrade", "h2c, websocket"), 101, ""},
		{"6455/4.2.1/Upgrade on two lines", change("Upgrade", "h2c\r\nUpgrade: WebSocket"), 101, ""},
		{"6455/4.2.1/no Connection", change("Connection", ""), 426, "Upgrade: websocket"},
		{"6455/4.2.1/Connection close", change("Connection", "close"), 426, "Upgrade: websocket"},
		{"6455/4.2.1/Connection in a list", change("Connection", "keep-alive, Upgrade"), 101, ""},
		{"6455/4.2.1/Connection in odd case", change("Connection", "keep-alive , uPGRADE"), 101, ""},
		{"6455/4.2.1/Connection on two lines", change("Connection", "keep-alive\r\nConnection: upgrade"), 101, ""},
		{"6455/4.2.1/Connection with a longer token", change("Connection", "Upgraded"), 426, "Upgrade: websocket"},
		{"6455/4.2.1/no key", change("Sec-WebSocket-Key", ""), 400, ""},
		{"6455/4.2.1/short key", change("Sec-WebSocket-Key", "dGhlIHNhbXBsZQ=="), 400, ""},
		{"6455/4.2.1/long key", change("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZSBhbmQgbW9yZQ=="), 400, ""},
		{"6455/4.2.1/key not base64", change("Sec-WebSocket-Key", "!!!!!!!!!!!!!!!!!!!!!!=="), 400, ""},
		{"6455/4.4/no version", change("Sec-WebSocket-Version", ""), 400, "Sec-WebSocket-Version: 13"},
		{"6455/4.4/version 8", change("Sec-WebSocket-Version", "8"), 400, "Sec-WebSocket-Version: 13"},
		{"6455/4.4/version 14", change("Sec-WebSocket-Version", "14"), 400, "Sec-WebSocket-Version: 13"},
		{"6455/4.4/version no number", change("Sec-WebSocket-Version", "thirteen"), 400, "Sec-WebSocket-Version: 13"},
		{"6455/4.4/two versions", change("Sec-WebSocket-Version", "13, 8"), 400, "Sec-WebSocket-Version: 13"},
		{"6455/11.3.5/version twice", change("Sec-WebSocket-Version", "13\r\nSec-WebSocket-Version: 8"), 400, "Sec-WebSocket-Version: 13"},
		{"6455/4.2.2/unknown extension", with("Sec-WebSocket-Extensions: x-unknown"), 101, "Sec-WebSocket-Extensions: "},
		{"6455/4.2.2/no subprotocol", with(), 101, "Sec-WebSocket-Protocol: "},
		{"6455/4.2.2/subprotocol", with(protocolHeader("msgpack")), 101, "Sec-WebSocket-Protocol: msgpack"},
		{"6455/4.2.2/client's order", with(protocolHeader("protobuf, json")), 101, "Sec-WebSocket-Protocol: protobuf"},
		{"6455/4.2.2/client's order over lines", with(protocolHeader("flatbuffers"), protocolHeader("json")), 101, "Sec-WebSocket-Protocol: flatbuffers"},
		{"6455/4.2.2/unknown before known", with(protocolHeader("wamp.2.json"), protocolHeader("json, msgpack")), 101, "Sec-WebSocket-Protocol: json"},
		{"6455/4.2.2/unknown subprotocol", with(protocolHeader("wamp.2.json")), 400, ""},
		{"6455/4.2.2/subprotocol in another case", with(protocolHeader("JSON")), 400, ""},
		{"6455/4.2.2/credentials are not echoed", with(protocolHeader("bearer.c2VjcmV0, json")), 101, "Sec-WebSocket-Protocol: json"},
		{"6455/4.2.2/only credentials", with(protocolHeader("bearer.c2VjcmV0")), 101, "Sec-WebSocket-Protocol: "},
	}
	check := func(t *testing.T, p *rawPeer, status int, header string) {
		require.Equal(t, status, p.status, p.body)
		if name, value, ok := strings.Cut(header, ": "); ok {
			require.Equal(t, value, p.header.Get(name))
			require.LessOrEqual(t, len(p.header.Values(name)), 1)
		}
		if status == http.StatusSwitchingProtocols {
			p.requireOpen()
			p.write(closeFrame(1000, ""))
			p.requireEnd(1000)
		} else {
			require.Empty(t, p.header.Get("Sec-WebSocket-Accept"))
			require.NotEmpty(t, p.header.Get("Sec-WebSocket-Version"), "a refusal must name the supported version")
		}
		_ = p.nc.Close()
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				hub := runEcho(t, paths[0], rawConfig())
				defer hub.stop()
				other := hub.bystander()
				check(t, hub.raw(tt.request), tt.status, tt.header)
				other.requireUndisturbed()
			})
		})
	}
	t.Run("over TCP", func(t *testing.T) {
		t.Parallel()
		b := setup(t, rawConfig(), options{})
		for _, tt := range tests {
			if strings.HasSuffix(tt.name, "/HTTP 1.0") || strings.HasSuffix(tt.name, "/head") {
				continue // net/http handles these requests itself
			}
			t.Run(tt.name, func(t *testing.T) { check(t, b.rawTCP(t, tt.request), tt.status, tt.header) })
		}
	})
}

// TestConformanceOverTCP runs a selection of cases on TCP sockets.
func TestConformanceOverTCP(t *testing.T) {
	t.Parallel()
	config := rawConfig()
	large := strings.Repeat("0123456789", 50_000)
	tests := []struct {
		name   string
		stream string
		want   []string // echoes
		code   int
	}{
		{"6455/5.6/text", textFrame("Hello"), []string{"Hello"}, 0},
		{"6455/5.4/fragments", fragments(textOp, chopped(large, 9973)...), []string{large}, 0},
		{"7692/7.2/deflated", frameOf(fin|rsv1|textOp, deflated(large, 6)), []string{large}, 0},
		{"6455/5.5.1/close", closeFrame(4000, "why"), nil, 4000},
		{"6455/5.2/rsv2", frameOf(fin|rsv2|textOp, "Hello"), nil, 1002},
		{"6455/8.1/invalid", textFrame("\xff"), nil, 1007},
		{"6455/10.4/too large", textFrame(strings.Repeat("x", 1<<20+1)), nil, 1009},
		{"6455/7.1.1/flood after a violation", frameOf(fin|3, "") + strings.Repeat("x", 300_000), nil, 1002},
	}
	b := setup(t, config, options{onMessage: func(c *websocket.Client, m *websocket.Message) {
		_ = c.Send(&websocket.Message{Data: m.Data}) // fails only if c is closing
	}})
	connect := func(t *testing.T) *rawPeer {
		return b.rawTCP(t, handshakeOf(protocolHeader(rawText.name), "Sec-WebSocket-Extensions: permessage-deflate")).requireOpen()
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			other, peer := connect(t), connect(t)
			peer.write(tt.stream)
			for _, want := range tt.want {
				f, err := peer.next()
				require.NoError(t, err)
				require.Equal(t, want, string(f.payload))
			}
			code := tt.code
			if code == 0 {
				code = 1000
				peer.write(closeFrame(1000, ""))
			}
			reason := peer.requireEnd(code)
			require.Equal(t, code > 1000 && code < 3000, reason != "")
			other.requireUndisturbed()
		})
	}
	t.Run("6455/5.2/every byte on its own", func(t *testing.T) {
		t.Parallel()
		peer := connect(t)
		require.NoError(t, peer.nc.(*net.TCPConn).SetNoDelay(true))
		for _, b := range []byte(frameOf(textOp, "Hel") + pingFrame("p") + frameOf(fin, "lo") + frameOf(fin|rsv1|textOp, deflated("again", 6))) {
			peer.write(string([]byte{b}))
		}
		var got []string
		for len(got) < 3 {
			f, err := peer.next()
			require.NoError(t, err, "%q", got)
			got = append(got, fmt.Sprintf("%x %s", f.first, f.payload))
		}
		require.ElementsMatch(t, []string{"8a p", "81 Hello", "81 again"}, got)
	})
}
