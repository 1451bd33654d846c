package websocket

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// checkName refuses names that could not be shown in a log or would take up too
// much room.
func checkName(name string, limit int) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: empty", ErrInvalidName)
	case len(name) > limit:
		return fmt.Errorf("%w: %d bytes, at most %d", ErrInvalidName, len(name), limit)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: not UTF-8", ErrInvalidName)
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%w: has a control character", ErrInvalidName)
	}
	return nil
}
