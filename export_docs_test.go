package websocket

import "github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"

// Numbers in docs/wire.md.
const (
	CloseLinger      = closeLinger
	LagLinger        = lagLinger
	PaceBurst        = rateBurst
	FloodBreak       = floodBreak
	MaxEmptyFragment = wsproto.MaxEmptyFragments
	MaxHeaderFields  = maxHeaderFields
)

// Defaults returns a Config with every default.
func Defaults() Config { return (&Config{}).withDefaults() }

// ErrorCodes are the codes in messages of type "error".
var ErrorCodes = []string{codeBadRequest, codeForbidden, codeInternal, codeLimit, codeTooLarge, codeUnavailable}

// AnnouncedReasons are the reasons that the hub sends in messages of type "gap" about
// its own drops. A disconnected client gets none.
var AnnouncedReasons = []string{dropNames[dropSlowConsumer], dropNames[dropCodec], dropNames[dropHistory], gapBroker}
