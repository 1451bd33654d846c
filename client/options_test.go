package client_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

func TestInvalidOptions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		url  string
		o    client.Options
		want string
	}{
		{"codec", "", client.Options{Codec: "xml"}, "Codec"},
		{"negative", "", client.Options{WriteTimeout: -1}, "WriteTimeout"},
		{"backoff", "", client.Options{BackoffMin: 2, BackoffMax: 1}, "BackoffMin"},
		{"sizes", "", client.Options{MaxSendSize: 2, OutboundLimit: 1}, "MaxSendSize"},
		{"header", "", client.Options{Header: http.Header{"sec-websocket-protocol": {"x"}}}, "Header"},
		{"keys", "", client.Options{Security: &websocket.SecurityConfig{AESKey: []byte("short")}}, "AESKey"},
		{"no keys", "", client.Options{Security: &websocket.SecurityConfig{}}, "Security"},
		{"scheme", "http://x", client.Options{}, "scheme"},
		{"host", "ws:///x", client.Options{}, "host"},
		{"user", "ws://a:b@x", client.Options{}, "user"},
		{"url", "ws://%zz", client.Options{}, "URL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.url == "" {
				tt.url = "ws://127.0.0.1:1"
			}
			_, err := client.Dial(testContext(t), tt.url, tt.o)
			require.ErrorContains(t, err, tt.want)
		})
	}
}
