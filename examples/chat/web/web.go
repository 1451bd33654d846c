// Package web contains the page of the chat, for the examples that serve it.
package web

import "embed"

// Files contains the files of the page. It does not contain hub.js.
//
//go:embed index.html chat.css chat.js icon.svg
var Files embed.FS
