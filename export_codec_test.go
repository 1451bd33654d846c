package websocket

// Functions for the codec tests.
var (
	ControlChannel = controlChannel
	ControlRoom    = controlRoom
	EncodeErrorFor = encodeError
	EncodeGapFor   = encodeGap
)
