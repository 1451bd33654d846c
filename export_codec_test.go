package websocket

// What the codec tests see of the inside.
var (
	AppendJSON     = appendJSON
	ValidJSON      = validJSON
	ControlChannel = controlChannel
	ControlRoom    = controlRoom
	EncodeErrorFor = encodeError
	EncodeGapFor   = encodeGap
	SkipPlain      = skipPlain
)
