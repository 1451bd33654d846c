package wsproto

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// Close codes that this package uses (RFC 6455 section 7.4.1).
const (
	closeProtocolError    = 1002
	closeReserved         = 1004 // without a meaning so far
	closeNoStatusReceived = 1005 // stands for a Close frame without a code
	closeAbnormalClosure  = 1006 // stands for a connection that ended without a Close frame
	closePolicyViolation  = 1008
	closeMessageTooBig    = 1009
)

// MaxReason is the maximum length in bytes of the reason in a Close frame: a
// control frame's payload without the two bytes of the code (RFC 6455 section
// 5.5.1).
const MaxReason = MaxControlPayload - 2

// CloseFrame returns a Close frame without a masking key. The reason is trimmed
// by TrimReason. For codes 1005 and 1006, which must not be sent, the frame has
// neither code nor reason (RFC 6455 section 7.4.1).
func CloseFrame(code int, reason string) []byte {
	if code == closeNoStatusReceived || code == closeAbnormalClosure {
		return ControlFrame(OpClose, nil)
	}
	return ControlFrame(OpClose, append(binary.BigEndian.AppendUint16(nil, uint16(code)), TrimReason(reason)...))
}

// SendableCode reports whether a Close frame may carry code: one that RFC 6455
// section 7.4.1 or the IANA registry defines, or one of those for libraries and
// applications (section 7.4.2).
func SendableCode(code int) bool {
	switch {
	case code >= 3000 && code <= 4999:
		return true
	case code >= 1000 && code <= 1013:
		return code != closeReserved && code != closeNoStatusReceived && code != closeAbnormalClosure
	default:
		return false
	}
}

// TrimReason returns reason as valid UTF-8 of at most MaxReason bytes. It quotes a
// reason that is not valid UTF-8 as %+q does, and never cuts inside a code point.
func TrimReason(reason string) string {
	if !utf8.ValidString(reason) {
		reason = fmt.Sprintf("%+q", reason)
	}
	if len(reason) <= MaxReason {
		return reason
	}
	cut := MaxReason
	for !utf8.RuneStart(reason[cut]) {
		cut--
	}
	return reason[:cut]
}
