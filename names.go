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
	if problem := nameProblem(name, limit); problem != "" {
		return fmt.Errorf("%w: %s", ErrInvalidName, problem)
	}
	return nil
}

// nameProblem returns what is wrong with a name, or "".
func nameProblem(name string, limit int) string {
	switch {
	case name == "":
		return "empty"
	case len(name) > limit:
		return fmt.Sprintf("has %d bytes, but the maximum is %d", len(name), limit)
	case !utf8.ValidString(name):
		return "not valid UTF-8"
	case strings.ContainsFunc(name, unicode.IsControl):
		return "has a control character"
	}
	return ""
}

// checkKey rejects a Message.Key that an encoder would change.
func checkKey(key string) error {
	if !utf8.ValidString(key) {
		return fmt.Errorf("%w: the key is not UTF-8", ErrMalformed)
	}
	return nil
}
