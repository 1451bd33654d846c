// Package web embeds the chat's page.
package web

import "embed"

// Files holds the files of the page.
//
//go:embed index.html chat.css chat.js icon.svg
var Files embed.FS
