package websocket_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// Lines of the log that clients cause again and again are limited to five of a kind.
func TestLinesThatClientsCauseAreLimited(t *testing.T) {
	t.Parallel()
	subscribe := `{"type":"subscribe","data":{"channel":"news"}}`
	for _, tt := range []struct {
		level, text string
		message     string
		configure   func(config *websocket.Config)
	}{
		{"warning", "does not open", longText(64), func(config *websocket.Config) {
			config.Security = &websocket.SecurityConfig{AESKey: []byte(strings.Repeat("k", 32)), SignThenEncrypt: true}
		}},
		{"error", "Authorize failed", subscribe, func(config *websocket.Config) {
			config.Authorize = func(*websocket.Client, websocket.AuthorizeRequest) error { return errors.New("no database") }
		}},
		{"error", "Authorize of client", subscribe, func(config *websocket.Config) {
			config.Authorize = func(*websocket.Client, websocket.AuthorizeRequest) error { panic("boom") }
		}},
		{"error", "ClientID of a handshake", "", func(config *websocket.Config) {
			config.ClientID = func(*http.Request) (string, error) { panic("boom") }
		}},
	} {
		t.Run(tt.text, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			tt.configure(&config)
			b := setup(t, config, options{logsError: true})
			for range 12 {
				p, err := b.tryDial(dialing{})
				if err != nil {
					continue
				}
				kind := gorilla.TextMessage
				if config.Security != nil {
					kind = gorilla.BinaryMessage
				}
				require.NoError(t, p.WriteMessage(kind, []byte(tt.message)))
				_, _, _ = p.ReadMessage() // the reply or the Close frame
				_ = p.Conn.Close()
			}
			require.Len(t, b.logs.matching(tt.level, tt.text), 5)
		})
	}
}
