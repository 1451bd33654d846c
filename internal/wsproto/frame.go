// Package wsproto implements the parts of RFC 6455 (WebSocket) and RFC 7692
// (permessage-deflate) that need no connection: writing frames, checking the
// frames of a client, and parsing the headers of a handshake.
package wsproto

import "encoding/binary"

// Opcodes (RFC 6455 section 5.2).
const (
	OpContinuation = 0x0
	OpText         = 0x1
	OpBinary       = 0x2
	OpClose        = 0x8
	OpPing         = 0x9
	OpPong         = 0xa
)

// Bits of a frame's first byte (RFC 6455 section 5.2).
const (
	FinalBit      = 0x80 // the last frame of its message
	CompressedBit = 0x40 // RSV1: the message is compressed (RFC 7692 section 6)

	reservedBits = 0x30 // RSV2 and RSV3: no extension defines them
	opcodeBits   = 0x0f
)

// Bits of a frame's second byte (RFC 6455 section 5.2).
const (
	maskBit    = 0x80
	lengthBits = 0x7f
)

const (
	// MaxHeader is the size in bytes of the largest header of a frame without a
	// masking key. Servers never mask (RFC 6455 section 5.1).
	MaxHeader = 10
	// MaxControlPayload is the maximum payload of a control frame in bytes
	// (RFC 6455 section 5.5).
	MaxControlPayload = 125
)

// HeaderSize returns the size in bytes of the header that AppendHeader appends
// for a payload of that many bytes.
func HeaderSize(payload int) int {
	switch {
	case payload < 126:
		return 2
	case payload <= 0xffff:
		return 4
	default:
		return 10
	}
}

// AppendHeader appends the header of a final frame without a masking key
// (RFC 6455 section 5.2). first is the opcode, with CompressedBit if the payload
// is compressed. The length is in its shortest form.
func AppendHeader(dst []byte, first byte, payload int) []byte {
	first |= FinalBit
	switch {
	case payload < 126:
		return append(dst, first, byte(payload))
	case payload <= 0xffff:
		return binary.BigEndian.AppendUint16(append(dst, first, 126), uint16(payload))
	default:
		return binary.BigEndian.AppendUint64(append(dst, first, 127), uint64(payload))
	}
}

// ControlFrame returns a control frame without a masking key. It cuts the payload
// at MaxControlPayload bytes.
func ControlFrame(opcode byte, payload []byte) []byte {
	payload = payload[:min(len(payload), MaxControlPayload)]
	return append(AppendHeader(make([]byte, 0, 2+len(payload)), opcode, len(payload)), payload...)
}

// IsControl reports whether first is the first byte of a control frame.
func IsControl(first byte) bool { return first&opcodeBits >= OpClose }

// MaskedControlSize returns the size of a client's control frame with this second byte.
func MaskedControlSize(second byte) int { return 2 + maskSize + int(second&lengthBits) }

// ControlPayload returns the payload of a client's control frame, which must be complete.
func ControlPayload(frame []byte) string {
	var payload [MaxControlPayload]byte
	mask, masked := frame[2:2+maskSize], frame[2+maskSize:]
	for i := range masked {
		payload[i] = masked[i] ^ mask[i%maskSize]
	}
	return string(payload[:len(masked)])
}
