package websocket

// Functions for the codec tests.
func guard(c Codec) *guardedCodec { return guardCodec(c, newGuardedLogger(SlogLogger(nil))) }

func ControlChannel(c Codec, data []byte) (string, error) { return controlChannel(guard(c), data) }

func ControlRoom(c Codec, data []byte) (string, error) { return controlRoom(guard(c), data) }

func EncodeErrorFor(c Codec, code, message string) []byte { return guard(c).encodeError(code, message) }

func EncodeGapFor(c Codec, g Gap) []byte { return guard(c).encodeGap(g) }

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

func DecodeResumeFor(c Codec, data []byte) (since *Position, last int, err error) {
	from, err := guard(c).decodeResume(data)
	return from.since, from.last, err
}
