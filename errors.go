package websocket

import (
	"errors"
)

// Errors that callers branch on with errors.Is. Errors that carry data are the
// structs further down, for errors.As.
var (
	// ErrInvalidKey says that an AES key is not 32 bytes or an HMAC key is empty.
	ErrInvalidKey = errors.New("websocket: invalid key")
	// ErrDecrypt says that bytes are too short, were made with another key or
	// were altered.
	ErrDecrypt = errors.New("websocket: message cannot be decrypted")
	// ErrSignature says that bytes are too short for a signature or that the
	// signature does not match.
	ErrSignature = errors.New("websocket: signature does not match")
	// ErrMalformed says that bytes are not an envelope of the codec that was
	// asked to decode them. Decoders wrap it with what is wrong and where.
	ErrMalformed = errors.New("websocket: malformed message")
)
