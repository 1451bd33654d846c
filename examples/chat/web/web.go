// Package web is the chat's page, for the examples that serve it.
package web

import "embed"

// Files are the page's own files.
//
//go:embed *.html *.css *.js *.svg
var Files embed.FS
