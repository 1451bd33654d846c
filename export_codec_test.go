package websocket

// Functions for the codec tests.

func guard(c Codec) *guardedCodec { return guardCodec(c, SlogLogger(nil)) }

func ControlChannel(c Codec, data []byte) (string, error) { return controlChannel(guard(c), data) }

func ControlRoom(c Codec, data []byte) (string, error) { return controlRoom(guard(c), data) }

func EncodeErrorFor(c Codec, code, message string) []byte { return guard(c).encodeError(code, message) }

func EncodeGapFor(c Codec, g Gap) []byte { return guard(c).encodeGap(g) }
