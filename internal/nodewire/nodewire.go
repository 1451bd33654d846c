// Package nodewire is the protocol between the nodes of a cluster: the head of
// each payload, the topics that payloads are published to, and the state that a
// receiver keeps about other nodes.
//
// A payload is a head followed by a body:
//
//	offset  size  field
//	0       1     version, 1
//	1       8     ID of the sending node, big endian
//	9       8     sequence number, big endian, counted by the sender; it jumps to the
//	              next multiple of 2^40 after a failure to publish
//	17      1     Kind
//	18      1     Audience of the target
//	19      1-10  length of the target's name, unsigned varint
//	...     n     the target's name
//
// The body of a publication is the protobuf envelope of the message. Its Channel
// names the channel or room, so that the head leaves the name out.
package nodewire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Audience is the group of clients that a publication is for.
type Audience uint8

// The audiences. Their values are part of the format.
const (
	ToClients Audience = iota // one client, or all of them
	ToChannel                 // the subscribers of a channel
	ToRoom                    // the members of a room
)

// Kind is the purpose of a payload.
type Kind uint8

// The kinds. Their values are part of the format.
const (
	kindNone        Kind = iota
	KindPublication      // a message for the target
	KindLost             // publications to the target may be lost
	KindLostAll          // any publication of the sender may be lost
	KindHello            // the sender's name, see AppendHello
	KindBye              // the sender shuts down
	KindQuestion         // a question to all nodes
	KindAnswer           // an answer to a question of the receiver
	KindRecord           // a publication that the engine keeps, see AppendRecord
	kinds
)

// Kinds from firstOther on carry no publication: a receiver that does not know one may
// ignore it. Smaller kinds that it does not know may be publications.
const (
	firstOther Kind = 128
	KindPeers  Kind = firstOther // the IDs of the nodes that the sender knows, see AppendPeers

	KindPresence = firstOther + 1 // members of a topic, in JSON
)

const (
	version   = 1
	versions  = 31 // the largest version that a later release may have
	fixedHead = 1 + 8 + 8 + 1 + 1

	// MaxHead is the largest size of a head in bytes, without the target's name.
	MaxHead = fixedHead + binary.MaxVarintLen64
)

// ErrMalformed is wrapped by the errors of Parse and ParseHello.
var ErrMalformed = errors.New("nodewire: malformed payload")

// ErrUnknown is wrapped by the errors of Parse for payloads of a later version of the
// protocol. They may be publications.
var ErrUnknown = errors.New("nodewire: payload of a later version")

// Head is the beginning of every payload.
type Head struct {
	Node     uint64 // ID of the sender
	Sequence uint64 // number of the payload, counted by the sender from 1; see NextEra
	Kind     Kind
	To       Target
}

// Append appends the encoded head to b.
func (h *Head) Append(b []byte) []byte {
	b = append(b, version)
	b = binary.BigEndian.AppendUint64(b, h.Node)
	b = binary.BigEndian.AppendUint64(b, h.Sequence)
	b = append(b, byte(h.Kind), byte(h.To.Audience))
	b = binary.AppendUvarint(b, uint64(len(h.To.Name)))
	return append(b, h.To.Name...)
}

// Parse decodes the head of a payload. The returned body is a part of b. With ErrUnknown
// the head has only the sender.
func Parse(b []byte) (h Head, body []byte, err error) {
	switch {
	case len(b) <= fixedHead:
		return h, nil, fmt.Errorf("%w: %d bytes are too short for a head", ErrMalformed, len(b))
	case b[0] > version && b[0] <= versions:
		return sender(b), nil, fmt.Errorf("%w: version %d, this node knows version %d", ErrUnknown, b[0], version)
	case b[0] != version:
		return h, nil, fmt.Errorf("%w: version %d, want %d", ErrMalformed, b[0], version)
	}
	h = sender(b)
	h.Sequence = binary.BigEndian.Uint64(b[9:])
	h.Kind, h.To.Audience = Kind(b[17]), Audience(b[18])
	switch {
	case h.Kind == kindNone:
		return Head{}, nil, fmt.Errorf("%w: kind 0", ErrMalformed)
	case h.Kind >= kinds && h.Kind < firstOther:
		return sender(b), nil, fmt.Errorf("%w: kind %d", ErrUnknown, h.Kind)
	case h.To.Audience > ToRoom:
		return Head{}, nil, fmt.Errorf("%w: unknown audience %d", ErrMalformed, b[18])
	}
	length, n := binary.Uvarint(b[fixedHead:])
	if n <= 0 || length > uint64(len(b)-fixedHead-n) {
		return Head{}, nil, fmt.Errorf("%w: bad length of the target's name", ErrMalformed)
	}
	body = b[fixedHead+n:]
	h.To.Name = string(body[:length])
	return h, body[length:], nil
}

// sender returns the part of a head that all versions share.
func sender(b []byte) Head { return Head{Node: binary.BigEndian.Uint64(b[1:])} }

// The first byte of a hello.
const (
	helloAsks = '?' // the receivers answer with a hello of their own
	helloOnly = '.'
)

// AppendHello appends the body of a hello to b. With ask set, the receivers
// answer with a hello.
func AppendHello(b []byte, ask bool, name string) []byte {
	first := byte(helloOnly)
	if ask {
		first = helloAsks
	}
	return append(append(b, first), name...)
}

// ParseHello decodes the body of a hello.
func ParseHello(body []byte) (ask bool, name string, err error) {
	if len(body) == 0 {
		return false, "", fmt.Errorf("%w: empty hello", ErrMalformed)
	}
	return body[0] == helloAsks, string(body[1:]), nil
}

// maxPeers is the largest number of IDs in a list of peers.
const maxPeers = 4096

// AppendPeers appends the body of a list of peers to b: the IDs in 8 bytes each, big
// endian. It reports false if there are too many of them.
func AppendPeers(b []byte, peers map[uint64]string) ([]byte, bool) {
	if len(peers) > maxPeers {
		return b, false
	}
	for id := range peers {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	return b, true
}

// ParsePeers decodes the body of a list of peers.
func ParsePeers(body []byte) ([]uint64, error) {
	if len(body)%8 != 0 || len(body) > 8*maxPeers {
		return nil, fmt.Errorf("%w: list of peers of %d bytes", ErrMalformed, len(body))
	}
	var peers []uint64
	for ; len(body) > 0; body = body[8:] {
		peers = append(peers, binary.BigEndian.Uint64(body))
	}
	return peers, nil
}
