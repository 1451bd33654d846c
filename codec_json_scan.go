package websocket

import (
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"slices"
	"unicode/utf8"
)

// jsonString returns the string in one member of a JSON object. It returns
// false for anything unusual, as scan does.
func jsonString(data []byte, key string) (value string, ok bool) {
	s := jsonScanner{buf: data}
	for s.next() {
		if string(s.key) == key {
			value = string(s.text())
		} else {
			s.unknown()
		}
	}
	return value, s.complete()
}

// jsonScanner walks over the members of one JSON object. After anything that
// it does not understand it finds no further member and is never complete.
type jsonScanner struct {
	buf []byte
	pos int
	key []byte // of the member that next found

	state jsonState
}

// jsonState is how far a jsonScanner has come.
type jsonState uint8

const (
	jsonStart    jsonState = iota // before the opening brace
	jsonInside                    // behind it
	jsonComplete                  // behind the closing brace and everything else
	jsonUnusual                   // gave up
)

// next goes to the next member: it fills key and stops before the value.
func (s *jsonScanner) next() bool {
	i := skipSpace(s.buf, s.pos)
	switch s.state {
	case jsonStart:
		if i == len(s.buf) || s.buf[i] != '{' {
			return s.unusual()
		}
		i = skipSpace(s.buf, i+1)
		if i < len(s.buf) && s.buf[i] == '}' {
			return s.finish(i + 1)
		}
		s.state = jsonInside
	case jsonInside:
		if i == len(s.buf) {
			return s.unusual()
		}
		if s.buf[i] == '}' {
			return s.finish(i + 1)
		}
		if s.buf[i] != ',' {
			return s.unusual()
		}
		i = skipSpace(s.buf, i+1)
	default:
		return false
	}
	return s.member(i)
}

// member reads a key without escapes and its colon.
func (s *jsonScanner) member(i int) bool {
	if i == len(s.buf) || s.buf[i] != '"' {
		return s.unusual()
	}
	start := i + 1
	i = skipPlain(s.buf, start)
	if i == len(s.buf) || s.buf[i] != '"' {
		return s.unusual()
	}
	s.key = s.buf[start:i]
	i = skipSpace(s.buf, i+1)
	if i == len(s.buf) || s.buf[i] != ':' {
		return s.unusual()
	}
	s.pos = skipSpace(s.buf, i+1)
	return true
}

// unknown passes over a member whose key is none of those looked for. A key
// that encoding/json might match in another case is unusual: upper-case
// letters, and all letters beyond ASCII.
func (s *jsonScanner) unknown() {
	for _, c := range s.key {
		if 'A' <= c && c <= 'Z' || c >= utf8.RuneSelf {
			s.unusual()
			return
		}
	}
	s.value()
}

func (s *jsonScanner) unusual() bool {
	s.state = jsonUnusual
	return false
}

// finish takes the object's end, after which only space may follow.
func (s *jsonScanner) finish(i int) bool {
	s.state = jsonComplete
	if skipSpace(s.buf, i) != len(s.buf) {
		s.state = jsonUnusual
	}
	return false
}

// complete says whether the object was read to its end.
func (s *jsonScanner) complete() bool { return s.state == jsonComplete }

// text reads a string without escapes.
func (s *jsonScanner) text() []byte {
	if s.pos < len(s.buf) && s.buf[s.pos] == '"' {
		start := s.pos + 1
		end := skipPlain(s.buf, start)
		if end < len(s.buf) && s.buf[end] == '"' {
			s.pos = end + 1
			return s.buf[start:end]
		}
	}
	s.unusual()
	return nil
}

// integer reads an integer of up to 19 digits. Of those, 19 never overflow a
// uint64, so what does not fit in an int64 shows as negative.
func (s *jsonScanner) integer() int64 {
	i := s.pos
	negative := i < len(s.buf) && s.buf[i] == '-'
	if negative {
		i++
	}
	start := i
	var v int64
	for i < len(s.buf) && isDigit(s.buf[i]) && i-start < 20 {
		v = v*10 + int64(s.buf[i]-'0')
		i++
	}
	// What follows the digits, a fraction say, is the next step's to judge.
	digits := i - start
	if digits == 0 || digits > 1 && s.buf[start] == '0' || digits > 19 || v < 0 {
		s.unusual()
		return 0
	}
	s.pos = i
	if negative {
		v = -v
	}
	return v
}

// value reads any value and returns it as it is written.
func (s *jsonScanner) value() []byte {
	end := skipValue(s.buf, s.pos)
	if end < 0 {
		s.unusual()
		return nil
	}
	v := s.buf[s.pos:end]
	s.pos = end
	return v
}

// validJSON says whether data can stand as the data of a JSON message: valid
// JSON, valid UTF-8, and not so deep that encoding/json would refuse it inside
// an envelope.
func validJSON(data []byte) bool {
	end := skipValue(data, skipSpace(data, 0))
	if end == jsonTooDeep {
		// Brackets stand in for the envelope.
		wrapped := slices.Concat([]byte("["), data, []byte("]"))
		return json.Valid(data) && json.Valid(wrapped) && utf8.Valid(data)
	}
	return end >= 0 && skipSpace(data, end) == len(data) && utf8.Valid(data)
}

// What skipValue and its helpers return instead of a position.
const (
	jsonInvalid = -1
	jsonTooDeep = -2 // deeper than skipValue can follow; not invalid for that
)

// maxScanDepth is how many arrays and objects skipValue can be inside of.
const maxScanDepth = 64

// skipValue returns the position after the JSON value that begins at i. It has
// no opinion on UTF-8. It is a loop with a stack of one bit per level, so that
// no input makes it recurse.
func skipValue(b []byte, i int) int {
	var objects uint64 // the lowest bit says whether the innermost level is an object
	depth := 0
	for {
		if i >= len(b) {
			return jsonInvalid
		}
		switch c := b[i]; {
		case c == '"':
			i = skipString(b, i+1)
		case c == '{' || c == '[':
			if depth == maxScanDepth {
				return jsonTooDeep
			}
			depth++
			objects <<= 1
			i = skipSpace(b, i+1)
			if c == '{' {
				objects |= 1
			}
			if i < len(b) && b[i] == c+2 { // ']' is '['+2 and '}' is '{'+2
				break
			}
			if c == '{' {
				if i = skipKey(b, i); i < 0 {
					return i
				}
			}
			continue
		case c == '-' || isDigit(c):
			i = skipNumber(b, i)
		default:
			i = skipLiteral(b, i)
		}
		if i < 0 {
			return i
		}
		// A value has ended, or an empty level is about to.
		for {
			if depth == 0 {
				return i
			}
			i = skipSpace(b, i)
			if i == len(b) {
				return jsonInvalid
			}
			c := b[i]
			i++
			if c == ',' {
				i = skipSpace(b, i)
				if objects&1 == 1 {
					if i = skipKey(b, i); i < 0 {
						return i
					}
				}
				break
			}
			if objects&1 == 1 && c != '}' || objects&1 == 0 && c != ']' {
				return jsonInvalid
			}
			objects >>= 1
			depth--
		}
	}
}

// skipKey passes over a key at i, its colon and the space around that.
func skipKey(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return jsonInvalid
	}
	if i = skipString(b, i+1); i < 0 {
		return i
	}
	i = skipSpace(b, i)
	if i == len(b) || b[i] != ':' {
		return jsonInvalid
	}
	return skipSpace(b, i+1)
}

// skipString passes over the rest of a string whose opening quote is before i.
func skipString(b []byte, i int) int {
	for {
		i = skipPlain(b, i)
		if i == len(b) || b[i] < ' ' {
			return jsonInvalid
		}
		if b[i] == '"' {
			return i + 1
		}
		if i = skipEscape(b, i+1); i < 0 {
			return i
		}
	}
}

// skipPlain returns the position of the first byte at or after i that cannot
// stand for itself in a string: a quote, a backslash or a control character. It
// looks at eight bytes at a time: 0.27 ns per byte where a plain loop takes 0.68.
func skipPlain(b []byte, i int) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		quote, backslash := x^ones*'"', x^ones*'\\'
		// A byte's high bit is set where the byte was below the subtrahend.
		// Borrows may mark bytes above the first hit, never below it.
		hit := (x-ones*' ')&^x | (quote-ones)&^quote | (backslash-ones)&^backslash
		if hit &= highs; hit != 0 {
			return i + bits.TrailingZeros64(hit)/8
		}
	}
	for i < len(b) && b[i] >= ' ' && b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

// skipEscape passes over an escape whose backslash is before i.
func skipEscape(b []byte, i int) int {
	if i == len(b) {
		return jsonInvalid
	}
	switch b[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		if i+5 <= len(b) && isHex(b[i+1]) && isHex(b[i+2]) && isHex(b[i+3]) && isHex(b[i+4]) {
			return i + 5
		}
	}
	return jsonInvalid
}

// skipNumber passes over a number at i.
func skipNumber(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = skipDigits(b, i); i < 0 {
		return i
	}
	if i < len(b) && b[i] == '.' {
		if i = skipDigits(b, i+1); i < 0 {
			return i
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return skipDigits(b, i)
	}
	return i
}

// skipDigits passes over one digit or more.
func skipDigits(b []byte, i int) int {
	start := i
	for i < len(b) && isDigit(b[i]) {
		i++
	}
	if i == start {
		return jsonInvalid
	}
	return i
}

func skipLiteral(b []byte, i int) int {
	rest := b[i:]
	switch {
	case len(rest) >= 4 && (string(rest[:4]) == "true" || string(rest[:4]) == "null"):
		return i + 4
	case len(rest) >= 5 && string(rest[:5]) == "false":
		return i + 5
	}
	return jsonInvalid
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && b[i] <= ' ' && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

func isDigit(c byte) bool { return c-'0' <= 9 }

func isHex(c byte) bool { return isDigit(c) || c|0x20-'a' <= 5 }

// checkUTF8 refuses bytes that are not UTF-8.
func checkUTF8(b []byte) error {
	if utf8.Valid(b) {
		return nil
	}
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return malformed("json", i, "invalid UTF-8")
		}
		i += n
	}
	return nil
}
