// Package web is the chat's page, for the examples that serve it.
package web

import "embed"

// Files are the page's own files.
//
//go:embed index.html chat.css chat.js icon.svg
var Files embed.FS
