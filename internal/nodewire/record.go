package nodewire

import (
	"encoding/binary"
	"fmt"
)

// Origin says who has published a record.
type Origin struct {
	// Client is true if a client has published it; its ID is in the envelope.
	Client bool
	// User is the user of that client.
	User string
	// ExceptSelf is true if the client itself does not get it.
	ExceptSelf bool
}

// Flags in the first byte of a record's body.
const (
	byClient   = 1 << 0
	exceptSelf = 1 << 1
)

// AppendRecord appends the head of a record, and the part of its body before the
// envelope: a byte of flags, and the user with its length before it.
func AppendRecord(b []byte, node uint64, to Audience, o Origin) []byte {
	head := Head{Node: node, Kind: KindRecord, To: Target{Audience: to}}
	b = head.Append(b)
	var flags byte
	if o.Client {
		flags |= byClient
	}
	if o.ExceptSelf {
		flags |= exceptSelf
	}
	b = binary.AppendUvarint(append(b, flags), uint64(len(o.User)))
	return append(b, o.User...)
}

// ParseRecord decodes the body of a record. The envelope is a part of body. It ignores
// flags that it does not know.
func ParseRecord(body []byte) (o Origin, envelope []byte, err error) {
	if len(body) == 0 {
		return o, nil, fmt.Errorf("%w: a record without flags", ErrMalformed)
	}
	length, n := binary.Uvarint(body[1:])
	if n <= 0 || length > uint64(len(body)-1-n) {
		return o, nil, fmt.Errorf("%w: bad length of a record's user", ErrMalformed)
	}
	rest := body[1+n:]
	o = Origin{Client: body[0]&byClient != 0, ExceptSelf: body[0]&exceptSelf != 0, User: string(rest[:length])}
	return o, rest[length:], nil
}
