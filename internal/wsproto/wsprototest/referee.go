package wsprototest

import (
	"encoding/binary"
	"slices"
	"strings"
)

// Ruling is the verdict of RFC 6455 on a stream of client frames.
type Ruling struct {
	Code  int  // Close code for the first violation, or 0
	Start int  // offset of the frame that breaks a rule
	Known int  // bytes of the stream that show the violation
	Early bool // the stream shows a violation but ends before the header does
}

// SeenFrame is one frame, or the beginning of one that the stream ends in.
type SeenFrame struct {
	First   byte
	Payload []byte // unmasked
	Whole   bool
}

// Referee reads a stream strictly and calls visit for each frame before the first
// violation. It stops if visit returns false. deflate says that permessage-deflate was
// agreed; limit is the maximum number of payload bytes of a message.
func Referee(stream []byte, deflate bool, limit int64, visit func(SeenFrame) bool) Ruling {
	inMessage, total, empties := false, uint64(0), 0
	for at := 0; len(stream)-at >= 2; {
		broken := func(code, header int) Ruling { return Ruling{Code: code, Start: at, Known: at + header} }
		first, second := stream[at], stream[at+1]
		op, last := first%16, first >= 0x80
		isControl, isData := op >= 8, op == 1 || op == 2
		marked := first&0x40 > 0
		length := uint64(second % 128)
		allowed := op <= 2 || op >= 8 && op <= 10
		if !allowed || first&0x30 > 0 || second < 0x80 ||
			isControl && (!last || length > 125 || marked || op == 8 && length == 1) ||
			marked && (!deflate || !isData) ||
			op == 0 && !inMessage || isData && inMessage {
			return broken(1002, 2)
		}
		header := 2
		switch length {
		case 126:
			header = 4
		case 127:
			header = 10
		}
		if len(stream)-at < header {
			return Ruling{}
		}
		switch header {
		case 4:
			length = uint64(binary.BigEndian.Uint16(stream[at+2:]))
		case 10:
			length = binary.BigEndian.Uint64(stream[at+2:])
		}
		masked := len(stream)-at >= header+4
		verdict := 0
		switch {
		case header == 4 && length <= 125, header == 10 && length <= 65535, length > 1<<63-1:
			verdict = 1002
		case isControl:
		default:
			if isData {
				total, empties = 0, 0
			}
			if length > uint64(limit)-total {
				verdict = 1009
			} else if total += length; length == 0 && !last {
				if empties++; empties > 128 {
					verdict = 1008
				}
			}
			inMessage = !last
		}
		if verdict != 0 && !masked {
			return Ruling{Early: true}
		}
		if verdict != 0 {
			return broken(verdict, header+4)
		}
		if !masked {
			return Ruling{}
		}
		key := stream[at+header : at+header+4]
		at += header + 4
		n := int(min(length, uint64(len(stream)-at)))
		payload := slices.Clone(stream[at : at+n])
		for i := range payload {
			payload[i] ^= key[i%4]
		}
		at += n
		if !visit(SeenFrame{first, payload, uint64(n) == length}) {
			return Ruling{}
		}
	}
	return Ruling{}
}

// Streams returns streams to begin fuzzing with: correct, wrong and borderline ones.
func Streams() [][]byte {
	var all [][]byte
	add := func(parts ...string) { all = append(all, []byte(strings.Join(parts, ""))) }
	hello, zipped := textFrame("Hello"), Frame(fin|rsv1|textOp, Deflated("Hello", 6))
	add(hello)
	add(hello, pingFrame("p"), pongFrame(""), CloseFrame(1000, "bye"), hello)
	add(Fragments(textOp, "frag", "", "ment"), Fragments(binaryOp, "\xff", "\x00"))
	add(Frame(textOp, "a"), pingFrame("inside"), Frame(fin, "b"))
	add(textFrame(strings.Repeat("x", 125)), textFrame(strings.Repeat("x", 126)))
	add(textFrame(strings.Repeat("x", 1000)), textFrame(strings.Repeat("x", 1001)))
	add(Fragments(textOp, strings.Repeat("x", 600), strings.Repeat("x", 600)))
	add(Frame(textOp, ""), strings.Repeat(Frame(contOp, ""), 130))
	add(Header(fin|textOp, 0x80, 70_000, 9), Masked(strings.Repeat("x", 100)))
	add(Header(fin|textOp, 0x80, 5, 3), Masked("Hello"))
	add(Header(fin|textOp, 0x80, 5, 9), Masked("Hello"))
	add(hello, Header(fin|textOp, 0x80, 1<<63, 9), Masked("Hello"))
	add(hello, Header(contOp, 0x80, 1<<63-1, 9))
	add(Frame(textOp, "x"), Header(contOp, 0x80, 1<<63-1, 9), "mask")
	add(Header(fin|textOp, 0, 5, 0), "Hello")
	add(zipped, Fragments(textOp|rsv1, Chopped(Deflated("Hello", 6), 2)...))
	add(Frame(fin|rsv1|textOp, "\xff\xff"), hello)
	add(Frame(fin|rsv1|pingOp, ""), Frame(fin|rsv1, ""))
	add(Frame(fin|closeOp, "\x03"), CloseFrame(1005, ""), CloseFrame(5000, ""))
	add(CloseFrame(1000, "\xff"))
	add(Frame(fin|closeOp, ""), textFrame("x"))
	add(CloseFrame(1000, "bye"), "\xff\xff\xff")
	add(textFrame("\xff"), Frame(fin|binaryOp, "\xff"))
	add(Frame(fin|3, ""), Frame(fin|11, ""))
	for i := range 8 {
		add(Frame(fin|byte(i)<<4|textOp, "bits"))
	}
	return all
}
