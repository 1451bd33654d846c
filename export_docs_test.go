package websocket

import "github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"

// What docs/wire.md says in numbers and names.
const (
	CloseLinger      = closeLinger
	LagLinger        = lagLinger
	PaceBurst        = rateBurst
	FloodMinimum     = floodMinimum
	FloodBreak       = floodBreak
	MaxEmptyFragment = wsproto.MaxEmptyFragments
)

// Defaults returns the Config that a zero one stands for.
func Defaults() Config { return (&Config{}).withDefaults() }

// ErrorCodes are the codes in messages of type "error".
var ErrorCodes = []string{codeBadRequest, codeForbidden, codeInternal, codeLimit, codeTooLarge, codeUnavailable}

// AnnouncedReasons are the reasons in messages of type "gap": of a client that
// has disconnected nobody is told.
var AnnouncedReasons = []string{dropNames[dropSlowConsumer], dropNames[dropCodec]}
