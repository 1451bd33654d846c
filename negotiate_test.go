package websocket_test

import (
	"net/http"
	"strings"
	"testing"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestSubprotocolNegotiation(t *testing.T) {
	t.Parallel()
	all := subprotocols
	tests := []struct {
		name     string
		allowed  []string // Config.Subprotocols
		offers   []string // header lines
		status   int
		selected string // in the response header
		codec    string
	}{
		{"the client's order", all, []string{"protobuf, json"}, 101, "protobuf", "protobuf"},
		{"the client's order reversed", all, []string{"json, protobuf"}, 101, "json", "json"},
		{"several header lines", all, []string{"msgpack", "json,protobuf"}, 101, "msgpack", "msgpack"},
		{"first that is known", all, []string{"graphql-ws,  flatbuffers , json"}, 101, "flatbuffers", "flatbuffers"},
		{"first that is allowed", []string{"json", "msgpack"}, []string{"protobuf, msgpack, json"}, 101, "msgpack", "msgpack"},
		{"none", all, nil, 101, "", "json"},
		{"none, and JSON is not first", []string{"protobuf", "json"}, nil, 101, "", "json"},
		{"none, and JSON is not allowed", []string{"protobuf"}, nil, 101, "", "protobuf"},
		{"credentials first", all, []string{"bearer.c2VjcmV0, protobuf"}, 101, "protobuf", "protobuf"},
		{"credentials last", all, []string{"protobuf", "bearer.c2VjcmV0"}, 101, "protobuf", "protobuf"},
		{"credentials only", all, []string{"bearer.c2VjcmV0"}, 101, "", "json"},
		{"unknown", all, []string{"graphql-ws"}, 400, "", ""},
		{"unknown with credentials", all, []string{"bearer.c2VjcmV0, graphql-ws"}, 400, "", ""},
		{"names are case-sensitive", all, []string{"JSON"}, 400, "", ""},
		{"not allowed", []string{"json"}, []string{"protobuf"}, 400, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.Subprotocols = tt.allowed
			b := setup(t, config, options{})
			header := http.Header{}
			if tt.offers != nil {
				header["Sec-Websocket-Protocol"] = tt.offers
			}
			response := b.handshake(t, "", header)
			require.Equal(t, tt.status, response.StatusCode)
			require.Equal(t, tt.selected, strings.Join(response.Header["Sec-Websocket-Protocol"], "|"))
			if tt.status == 101 {
				require.Equal(t, tt.codec, b.connected.take(t).Codec().Name())
				return
			}
			require.Contains(t, bodyOf(t, response), strings.Join(tt.allowed, ", "))
			require.Empty(t, response.Header.Get("Retry-After"))
			require.Zero(t, b.connected.len())
		})
	}
}

func TestExtensionNegotiation(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	const agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	tests := []struct {
		offers []string
		want   string
	}{
		{nil, ""},
		{[]string{"permessage-deflate"}, agreed},
		{[]string{"permessage-deflate; client_max_window_bits"}, agreed},
		{[]string{"permessage-deflate; client_max_window_bits=10"}, agreed},
		{[]string{"permessage-deflate; server_no_context_takeover; client_no_context_takeover"}, agreed},
		{[]string{"permessage-deflate; server_max_window_bits=10"}, ""},
		{[]string{"permessage-deflate; server_max_window_bits"}, ""},
		{[]string{"permessage-deflate; client_max_window_bits=7"}, ""},
		{[]string{"permessage-deflate; client_no_context_takeover=1"}, ""},
		{[]string{"permessage-deflate; client_no_context_takeover; client_no_context_takeover"}, ""},
		{[]string{"permessage-deflate; unknown"}, ""},
		{[]string{"permessage-deflate; server_max_window_bits=10, permessage-deflate"}, agreed},
		{[]string{"permessage-deflate; server_max_window_bits=10", "permessage-deflate"}, agreed},
		{[]string{"x-webkit-deflate-frame"}, ""},
	}
	for _, tt := range tests {
		header := http.Header{}
		if tt.offers != nil {
			header["Sec-Websocket-Extensions"] = tt.offers
		}
		response := b.handshake(t, "", header)
		require.Equal(t, 101, response.StatusCode)
		require.Equal(t, tt.want, response.Header.Get("Sec-Websocket-Extensions"), "%q", tt.offers)
		require.NoError(t, response.Body.Close())
	}
}
