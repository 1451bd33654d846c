package websocket_test

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

const wireDocument = "docs/wire.md"

// generated matches a part of the document that the code writes.
var generated = regexp.MustCompile("(?s)(<!-- generated: ([^\n]*) -->\n).*?(<!-- end -->)")

// TestDocsExamples compares the generated parts of the document with the output of the
// code.
func TestDocsExamples(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(wireDocument)
	require.NoError(t, err)
	document, v, blocks := string(b), makeVectors(t), 0
	want := generated.ReplaceAllStringFunc(document, func(block string) string {
		blocks++
		parts := generated.FindStringSubmatch(block)
		return parts[1] + v.block(t, parts[2]) + parts[3]
	})
	require.Greater(t, blocks, 10, "the document has lost its markers")
	require.Equal(t, strings.Count(document, "<!-- generated: "), blocks, "a marker without an end")
	if *update {
		require.NoError(t, os.WriteFile(wireDocument, []byte(want), 0o644))
		return
	}
	require.Equal(t, want, document, "%s differs from the output of the code; to accept it, run go test -run 'TestVectors|TestDocs' . -update", wireDocument)
}

// block returns the generated part of the document with that name.
func (v *wireVectors) block(t testing.TB, name string) string {
	t.Helper()
	kind, rest, _ := strings.Cut(name, " ")
	switch kind {
	case "text": // a message in JSON
		return "```json\n" + string(v.example(t, rest).wire(t, "none")) + "\n```\n"
	case "bytes":
		x := v.example(t, rest)
		return "```text\n" + listing(annotate(t, x.Codec, x.wire(t, "none"))) + "```\n"
	case "data": // the data of a control message
		x := v.example(t, rest)
		if x.Codec == "protobuf" {
			return "```text\n" + listing(annotateFields(t, unhex(t, x.Data), 0, nil)) + "```\n"
		}
		return "```json\n" + string(unhex(t, x.Data)) + "\n```\n"
	case "keys":
		return fmt.Sprintf("```text\nAES key   %s\nHMAC key  %s  (%q)\n```\n", v.AESKey, v.HMACKey, unhex(t, v.HMACKey))
	case "sealed":
		example, mode, _ := strings.Cut(rest, " ")
		return "```text\n" + listing(v.annotateSealed(t, v.example(t, example), mode)) + "```\n"
	case "limits":
		return limitsTable()
	}
	require.FailNow(t, "unknown part of the document", name)
	return ""
}

func (v *wireVectors) example(t testing.TB, name string) *wireVector {
	t.Helper()
	require.Contains(t, v.byName, name)
	return v.byName[name]
}

// part is some bytes of an example and their meaning.
type part struct {
	at   int
	b    []byte
	note string
}

// listing prints parts with their offsets, sixteen bytes to a line.
func listing(parts []part) string {
	var out strings.Builder
	for _, p := range parts {
		note := "  " + p.note
		for at := 0; at == 0 || at < len(p.b); at += 16 {
			line := p.b[at:min(at+16, len(p.b))]
			out.WriteString(strings.TrimRight(fmt.Sprintf("%04x  %-32x%s", p.at+at, line, note), " ") + "\n")
			note = ""
		}
	}
	return out.String()
}

// splitter cuts an example into parts from the front.
type splitter struct {
	b     []byte
	at    int
	parts []part
}

// take cuts off the next n bytes and describes them.
func (s *splitter) take(n int, format string, args ...any) []byte {
	b := s.b[s.at : s.at+n]
	s.parts = append(s.parts, part{s.at, b, fmt.Sprintf(format, args...)})
	s.at += n
	return b
}

// annotate splits a message into parts.
func annotate(t testing.TB, codec string, b []byte) []part {
	t.Helper()
	switch codec {
	case "protobuf":
		return annotateFields(t, b, 0, []string{"type", "channel", "data", "timestamp", "client_id", "id"})
	case "flatbuffers":
		return annotateFlatBuffer(t, b)
	case "msgpack":
		return annotateMsgpack(t, b)
	}
	require.FailNow(t, "no listing for codec", codec)
	return nil
}

// annotateFields splits a protobuf message. names are those of the fields from 1 on, or
// nil.
func annotateFields(t testing.TB, b []byte, at int, names []string) []part {
	t.Helper()
	s := splitter{b: b, at: at}
	for s.at < len(b) {
		number, wireType, n := protowire.ConsumeTag(b[s.at:])
		require.Positive(t, n)
		name := ""
		if names != nil {
			name = " (" + names[number-1] + ")"
		}
		switch wireType {
		case protowire.VarintType:
			s.take(n, "field %d%s, varint", number, name)
			value, n := protowire.ConsumeVarint(b[s.at:])
			s.take(n, "%d", int64(value))
		case protowire.BytesType:
			s.take(n, "field %d%s, length-delimited", number, name)
			content, n := protowire.ConsumeBytes(b[s.at:])
			s.take(n-len(content), "%d bytes", len(content))
			s.take(len(content), "%s", content)
		default:
			require.FailNow(t, "unexpected wire type")
		}
	}
	return s.parts
}

// annotateMsgpack splits a MessagePack map with the forms that the codec writes.
func annotateMsgpack(t testing.TB, b []byte) []part {
	t.Helper()
	s := splitter{b: b}
	members := int(b[0] & 0x0f)
	s.take(1, "map of %d", members)
	for range members {
		n := int(b[s.at] & 0x1f)
		key := string(b[s.at+1 : s.at+1+n])
		s.take(1+n, "str of %d: %s", n, key)
		switch c := b[s.at]; {
		case c == 0xc0:
			s.take(1, "nil")
		case c == 0xc4:
			n := int(b[s.at+1])
			s.take(2, "bin of %d", n)
			s.take(n, "%s", b[s.at:s.at+n])
		case c == 0xd3:
			s.take(1, "int64")
			s.take(8, "%d", int64(binary.BigEndian.Uint64(b[s.at:])))
		case c&0xe0 == 0xa0:
			n := int(c & 0x1f)
			s.take(1+n, "str of %d: %s", n, b[s.at+1:s.at+1+n])
		default:
			require.FailNow(t, "unexpected byte", "%x", c)
		}
	}
	require.Equal(t, len(b), s.at)
	return s.parts
}

// annotateFlatBuffer follows the offsets of a WsMessage.
func annotateFlatBuffer(t testing.TB, b []byte) []part {
	t.Helper()
	names := []string{"type", "channel", "data", "timestamp", "client_id", "id"}
	var parts []part
	add := func(at, n int, format string, args ...any) {
		parts = append(parts, part{at, b[at : at+n], fmt.Sprintf(format, args...)})
	}
	u16 := func(at int) int { return int(binary.LittleEndian.Uint16(b[at:])) }
	u32 := func(at int) int { return int(binary.LittleEndian.Uint32(b[at:])) }
	table := u32(0)
	add(0, 4, "offset of the table: %04x", table)
	vtable := table - int(int32(u32(table)))
	add(vtable, 2, "vtable: %d bytes long", u16(vtable))
	add(vtable+2, 2, "table: %d bytes long", u16(vtable+2))
	add(table, 4, "table: its vtable is %d bytes before", table-vtable)
	for slot, name := range names {
		entry := vtable + 4 + 2*slot
		if entry >= vtable+u16(vtable) || u16(entry) == 0 {
			if entry < vtable+u16(vtable) {
				add(entry, 2, "slot %d (%s): absent", slot, name)
			}
			continue
		}
		add(entry, 2, "slot %d (%s): %d bytes into the table", slot, name, u16(entry))
		field := table + u16(entry)
		if name == "timestamp" {
			add(field, 8, "timestamp: %d", int64(binary.LittleEndian.Uint64(b[field:])))
			continue
		}
		start := field + u32(field)
		length := u32(start)
		add(field, 4, "%s: %d bytes further on, at %04x", name, u32(field), start)
		add(start, 4, "%s: %d bytes", name, length)
		if name == "data" {
			add(start+4, length, "%s", b[start+4:start+4+length])
		} else {
			add(start+4, length+1, "%s, and a zero byte", b[start+4:start+4+length])
		}
	}
	slices.SortFunc(parts, func(a, b part) int { return a.at - b.at })
	var whole []part
	at := 0
	for _, p := range append(parts, part{at: len(b)}) {
		require.GreaterOrEqual(t, p.at, at, "parts overlap")
		if p.at > at {
			whole = append(whole, part{at, b[at:p.at], "padding"})
		}
		at = p.at + len(p.b)
		whole = append(whole, p)
	}
	return whole[:len(whole)-1]
}

// annotateSealed splits a sealed message.
func (v *wireVectors) annotateSealed(t testing.TB, x *wireVector, mode string) []part {
	t.Helper()
	s := splitter{b: x.wire(t, mode)}
	switch mode {
	case "aes-only":
		s.take(12, "nonce")
		s.take(len(s.b)-12-16, "the envelope, encrypted")
		s.take(16, "tag")
	case "hmac-only":
		s.take(32, "HMAC of all following bytes")
		s.take(len(s.b)-32, "the envelope")
	case "sign-then-encrypt":
		s.take(12, "nonce")
		s.take(len(s.b)-12-16, "HMAC of the envelope and the envelope, encrypted")
		s.take(16, "tag")
	case "encrypt-then-sign":
		s.take(32, "HMAC of all following bytes")
		s.take(12, "nonce")
		s.take(len(s.b)-32-12-16, "the envelope, encrypted")
		s.take(16, "tag")
	default:
		require.FailNow(t, "unknown mode", mode)
	}
	return s.parts
}

// limitsTable returns the table of limits with the defaults of Config.
func limitsTable() string {
	d := websocket.Defaults()
	kib := func(n int64) string {
		if n >= 1<<30 {
			return strconv.FormatInt(n>>30, 10) + " GiB"
		}
		if n >= 1<<20 {
			return strconv.FormatInt(n>>20, 10) + " MiB"
		}
		return strconv.FormatInt(n>>10, 10) + " KiB"
	}
	var out strings.Builder
	out.WriteString("| limit | default | setting | beyond it |\n|---|---|---|---|\n")
	row := func(limit, value, setting, beyond string) {
		fmt.Fprintf(&out, "| %s | %s | %s | %s |\n", limit, value, setting, beyond)
	}
	row("a message from a client, after decompression, including sealing", kib(d.MaxMessageSize), "`MaxMessageSize`", "close 1009")
	row("the same on the wire", "that, plus 1/1,024 of it, plus 256 bytes", "", "close 1009")
	row("frames per second, of all kinds", strconv.FormatInt(d.MessageRate, 10), "`MessageRate`", "the hub reads more slowly")
	row("bytes per second", kib(d.ByteRate), "`ByteRate`", "the same")
	row("bytes per second after decompression", "the same limit", "`ByteRate`", "the same")
	row("time for one message, plus 1 s for each KiB received", d.MessageTimeout.String(), "`MessageTimeout`", "close 1008")
	row("empty fragments of one message", strconv.Itoa(websocket.MaxEmptyFragment), "", "close 1008")
	row("a channel name or room ID, in bytes of UTF-8", strconv.Itoa(d.MaxNameLength), "`MaxNameLength`", "error `bad_request`")
	row("channels and rooms of one client", strconv.Itoa(d.MaxSubscriptions), "`MaxSubscriptions`", "error `limit`")
	row("a publication: its strings, its payload and 128 bytes", kib(min(d.ClientBacklog, d.LogSize)), "`ClientBacklog`, `LogSize`", "error `too_large`")
	row("backlog of a client that reads too slowly", kib(d.ClientBacklog), "`ClientBacklog`", "close 1013, or gaps")
	row("time without accepting a byte while data is pending", d.WriteWait.String(), "`WriteWait`", "the connection ends")
	row("silence of a client before it is pinged", d.PingPeriod.String(), "`PingPeriod`", "a ping")
	row("silence of a client before it is closed", d.PongWait.String(), "`PongWait`", "close 3008")
	row("request line and header of a handshake", kib(int64(d.MaxHeaderBytes)), "`MaxHeaderBytes`", "HTTP 431")
	row("header fields of a handshake", strconv.Itoa(websocket.MaxHeaderFields), "", "HTTP 431")
	row("memory that clients make the hub hold", kib(d.MemoryBudget), "`MemoryBudget`", "HTTP 503; close 1013 or gaps for the clients that hold the most")
	row("connections", strconv.Itoa(d.MaxClients), "`MaxClients`", "HTTP 503")
	row("connections of one address; of one /64 for IPv6", "none", "`MaxClientsPerAddress`", "HTTP 429")
	row("handshakes at the same time", strconv.Itoa(d.MaxHandshakes), "`MaxHandshakes`", "HTTP 503")
	row("time after the hub's Close frame", websocket.CloseLinger.String(), "", "the connection ends")
	row("the same after 1013 and 3008", websocket.LagLinger.String(), "", "the connection ends")
	return out.String()
}

// firstCells returns the first two cells of each row of the table below a heading.
func firstCells(t testing.TB, document, heading string) (rows [][2]string) {
	t.Helper()
	_, section, found := strings.Cut(document, "\n## "+heading+"\n")
	require.True(t, found, "no section %q", heading)
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.SplitSeq(section, "\n") {
		if cells := strings.Split(line, "|"); len(cells) > 3 {
			rows = append(rows, [2]string{strings.Trim(cells[1], " `"), strings.Trim(cells[2], " `")})
		}
	}
	require.Greater(t, len(rows), 2)
	return rows[2:]
}

// TestDocsTables compares the handwritten tables of the document with the code.
func TestDocsTables(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(wireDocument)
	require.NoError(t, err)
	document := string(b)

	var codes []vectorCode
	for _, row := range firstCells(t, document, "Close codes") {
		code, err := strconv.Atoi(row[0])
		require.NoError(t, err)
		codes = append(codes, vectorCode{code, row[1]})
	}
	require.Equal(t, vectorCloseCodes, codes)

	var errorCodes []string
	for _, row := range firstCells(t, document, "Errors") {
		errorCodes = append(errorCodes, row[0])
	}
	require.Equal(t, websocket.ErrorCodes, errorCodes)
	require.Equal(t, []string{
		client.CodeBadRequest, client.CodeForbidden, client.CodeInternal, client.CodeLimit, client.CodeTooLarge, client.CodeUnavailable,
	}, websocket.ErrorCodes)

	var reasons []string
	for _, row := range firstCells(t, document, "Gaps") {
		reasons = append(reasons, row[0])
	}
	require.Equal(t, websocket.AnnouncedReasons, reasons)

	_, offer, found := strings.Cut(document, "Sec-WebSocket-Protocol: ")
	require.True(t, found)
	offer, _, _ = strings.Cut(offer, "\n")
	token, ok := websocket.BearerToken(&http.Request{Header: http.Header{"Sec-Websocket-Protocol": {offer}}})
	require.True(t, ok)
	require.Equal(t, "zoë", token)
	for _, text := range []string{
		fmt.Sprintf("%.0f seconds' worth at once", websocket.PaceBurst.Seconds()),
		fmt.Sprintf("without a break of %.0f second", websocket.FloodBreak.Seconds()),
	} {
		require.Contains(t, strings.Join(strings.Fields(document), " "), text)
	}
}
