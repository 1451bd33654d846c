package websocket

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// checkName returns an error for a name that is empty, longer than limit bytes, or
// could not be printed in a log.
func checkName(name string, limit int) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: empty", ErrInvalidName)
	case len(name) > limit:
		return fmt.Errorf("%w: has %d bytes, but the maximum is %d", ErrInvalidName, len(name), limit)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: not valid UTF-8", ErrInvalidName)
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%w: has a control character", ErrInvalidName)
	}
	return nil
}
