package websocket

// What the codec tests see of the inside.
var (
	AppendJSON     = appendJSON
	ControlChannel = controlChannel
	ControlRoom    = controlRoom
	EncodeErrorFor = encodeError
	EncodeGapFor   = encodeGap
)
