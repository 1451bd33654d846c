package websocket

// Functions for the codec tests.
var (
	ControlChannel = controlChannel
	ControlRoom    = controlRoom
	EncodeErrorFor = encodeError
	EncodeGapFor   = encodeGap
)

// JSONUnmarshalSlow is JSONCodec's Unmarshal without the fast path.
func JSONUnmarshalSlow(data []byte, msg *Message) error {
	*msg = Message{}
	if err := checkUTF8(data); err != nil {
		return err
	}
	var e jsonEnvelope
	if err := e.decode(data); err != nil {
		return err
	}
	return e.message(msg)
}

// JSONScans reports whether the fast path of JSONCodec supports data.
func JSONScans(data []byte) bool {
	var e jsonEnvelope
	return e.scan(data)
}
