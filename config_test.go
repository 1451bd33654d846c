package websocket_test

import (
	"crypto/tls"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	l := func(name string, index int) lines {
		return lines{name: name, index: index, opcode: websocket.BinaryMessage}
	}
	many := make([]websocket.Codec, 100)
	for i := range many {
		many[i] = l(fmt.Sprint("codec", i), i)
	}
	tests := []struct {
		field  string // named by the error; empty: the Config is valid
		change func(c *websocket.Config)
	}{
		{"", func(*websocket.Config) {}},
		{"", func(c *websocket.Config) { *c = websocket.Config{} }},
		{"", func(c *websocket.Config) { c.Shards = 64 }},
		{"", func(c *websocket.Config) { c.PongWait, c.PingPeriod = time.Second, 0 }},
		{"", func(c *websocket.Config) { c.MaxMessageSize, c.LogSize = math.MaxInt64, math.MaxInt64 }},
		{"ReadBufferSize", func(c *websocket.Config) { c.ReadBufferSize = -1 }},
		{"WriteBufferSize", func(c *websocket.Config) { c.WriteBufferSize = -1 }},
		{"MaxMessageSize", func(c *websocket.Config) { c.MaxMessageSize = -1 }},
		{"WriteWait", func(c *websocket.Config) { c.WriteWait = -1 }},
		{"PongWait", func(c *websocket.Config) { c.PongWait = -1 }},
		{"PingPeriod", func(c *websocket.Config) { c.PingPeriod = -1 }},
		{"PingPeriod", func(c *websocket.Config) { c.PingPeriod = c.PongWait }},
		{"", func(c *websocket.Config) { c.PongWait = 30 * time.Second }},
		{"", func(c *websocket.Config) { c.PongTimeout = 30 * time.Second }},
		{"", func(c *websocket.Config) { c.PongWait, c.PingPeriod = 100*time.Second, 90*time.Second }},
		{"Config.PingPeriod is 30s, which is not shorter than PongWait 20s, so every client would be closed before it is pinged: set it to 0 for nine tenths of PongWait", func(c *websocket.Config) {
			c.PongWait, c.PingPeriod = 20*time.Second, 30*time.Second
		}},
		{"Config.PingInterval is 54s, which is not shorter than PongTimeout 30s", func(c *websocket.Config) {
			c.PongTimeout, c.PingInterval = 30*time.Second, 54*time.Second
		}},
		{"", func(c *websocket.Config) {
			c.PingInterval, c.PongTimeout, c.WriteTimeout = 5*time.Second, 10*time.Second, time.Second
		}},
		{"", func(c *websocket.Config) { *c = websocket.Config{PongTimeout: 10 * time.Second} }},
		{"", func(c *websocket.Config) { c.PingPeriod, c.PingInterval = 5*time.Second, 5*time.Second }},
		{"WriteTimeout", func(c *websocket.Config) { c.WriteWait, c.WriteTimeout = time.Second, 2*time.Second }},
		{"PongTimeout", func(c *websocket.Config) { c.PongWait, c.PongTimeout = 61*time.Second, 60*time.Second }},
		{"PingInterval", func(c *websocket.Config) { c.PingPeriod, c.PingInterval = 5*time.Second, 6*time.Second }},
		{"PingInterval", func(c *websocket.Config) { c.PongTimeout, c.PingInterval = 5*time.Second, 5*time.Second }},
		{"WriteTimeout", func(c *websocket.Config) { c.WriteTimeout = -1 }},
		{"PongTimeout", func(c *websocket.Config) { c.PongTimeout = -1 }},
		{"PingInterval", func(c *websocket.Config) { c.PingInterval = -1 }},
		{"HandshakeTimeout", func(c *websocket.Config) { c.HandshakeTimeout = -1 }},
		{"Shards", func(c *websocket.Config) { c.Shards = -1 }},
		{"Shards", func(c *websocket.Config) { c.Shards = 65 }},
		{"LogSize", func(c *websocket.Config) { c.LogSize = -1 }},
		{"ClientBacklog", func(c *websocket.Config) { c.ClientBacklog = -1 }},
		{"FloodTimeout", func(c *websocket.Config) { c.FloodTimeout = -1 }},
		{"", func(c *websocket.Config) { c.MaxMessageSize = 1 << 30 }},
		{"", func(c *websocket.Config) { c.ClientBacklog, c.LogSize = 512<<10+512, 512<<10+512 }},
		{"ClientBacklog is 524799, but MaxMessageSize 524288 needs at least 524800", func(c *websocket.Config) { c.ClientBacklog = 512<<10 + 511 }},
		{"ClientBacklog is 1048576, but MaxMessageSize 8388608 needs at least 8389120", func(c *websocket.Config) { c.MaxMessageSize, c.ClientBacklog = 8<<20, 1<<20 }},
		{"LogSize is 524799, but MaxMessageSize 524288 needs at least 524800", func(c *websocket.Config) { c.LogSize = 512<<10 + 511 }},
		{"", func(c *websocket.Config) { c.MemoryBudget = 4 * (512<<10 + 512) }},
		{"MemoryBudget is 2099199, but MaxMessageSize 524288 needs at least 2099200", func(c *websocket.Config) { c.MemoryBudget = 4*(512<<10+512) - 1 }},
		{"ClientBacklog", func(c *websocket.Config) { c.MaxMessageSize, c.ClientBacklog = math.MaxInt64, math.MaxInt64-1 }},
		{"DrainTimeout", func(c *websocket.Config) { c.DrainTimeout = -1 }},
		{"CallbackTimeout", func(c *websocket.Config) { c.CallbackTimeout = -1 }},
		{"", func(c *websocket.Config) { c.NodeName = strings.Repeat("é", 127) + "e" }},
		{"NodeName", func(c *websocket.Config) { c.NodeName = strings.Repeat("é", 128) }},
		{`Config.NodeName "a\n" is invalid: has a control character`, func(c *websocket.Config) { c.NodeName = "a\n" }},
		{"DuplicateID", func(c *websocket.Config) { c.DuplicateID = 2 }},
		{"DuplicateID", func(c *websocket.Config) { c.DuplicateID = -1 }},
		{"Compression.Level", func(c *websocket.Config) { c.Compression = &websocket.CompressionConfig{Level: 10} }},
		{"Compression.Level", func(c *websocket.Config) { c.Compression = &websocket.CompressionConfig{Level: -3} }},
		{"Compression.MinSize", func(c *websocket.Config) { c.Compression = &websocket.CompressionConfig{MinSize: -1} }},
		{"set Subprotocols to nil for the names of all Codecs", func(c *websocket.Config) { c.Subprotocols = []string{"json", "soap"} }},
		{"", func(c *websocket.Config) { c.Codecs = []websocket.Codec{websocket.JSONCodec{}} }},
		{"Subprotocols", func(c *websocket.Config) {
			c.Codecs, c.Subprotocols = []websocket.Codec{websocket.JSONCodec{}}, []string{"json", "protobuf"}
		}},
		{"Codecs", func(c *websocket.Config) { c.Codecs = []websocket.Codec{nil} }},
		{"Codecs", func(c *websocket.Config) { c.Codecs = []websocket.Codec{l("a b", 1)} }},
		{"Codecs", func(c *websocket.Config) { c.Codecs = []websocket.Codec{l("", 1)} }},
		{"Codecs", func(c *websocket.Config) { c.Codecs = []websocket.Codec{l("a", 1), l("a", 2)} }},
		{"Codecs", func(c *websocket.Config) { c.Codecs = []websocket.Codec{l("a", 1), l("b", 1)} }},
		{"Codecs", func(c *websocket.Config) { c.Codecs = []websocket.Codec{lines{name: "a", opcode: 8}} }},
		{"Codecs", func(c *websocket.Config) { c.Codecs = many }},
		{"", func(c *websocket.Config) { c.TLS = &websocket.TLSConfig{CertFile: "cert.pem", KeyFile: "key.pem"} }},
		{"", func(c *websocket.Config) {
			c.TLS = &websocket.TLSConfig{TLSConfig: &tls.Config{Certificates: []tls.Certificate{{}}}}
		}},
		{"", func(c *websocket.Config) {
			c.TLS = &websocket.TLSConfig{TLSConfig: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }}}
		}},
		{"Config.TLS has no certificate", func(c *websocket.Config) { c.TLS = &websocket.TLSConfig{} }},
		{"Config.TLS has no certificate", func(c *websocket.Config) { c.TLS = &websocket.TLSConfig{TLSConfig: &tls.Config{}} }},
		{"Config.TLS.KeyFile is empty", func(c *websocket.Config) { c.TLS = &websocket.TLSConfig{CertFile: "cert.pem"} }},
		{"Config.TLS.CertFile is empty", func(c *websocket.Config) { c.TLS = &websocket.TLSConfig{KeyFile: "key.pem"} }},
		{"", func(c *websocket.Config) { c.Security = &websocket.SecurityConfig{} }},
		{"Config.Security.AESKey is 16 bytes, want 32", func(c *websocket.Config) { c.Security = &websocket.SecurityConfig{AESKey: make([]byte, 16)} }},
		{"Security.AESKey", func(c *websocket.Config) { c.Security = &websocket.SecurityConfig{AESKey: make([]byte, 31)} }},
		{"Security.AESKey", func(c *websocket.Config) { c.Security = &websocket.SecurityConfig{AESKey: []byte{}} }},
		{"Config.Security.HMACKey is empty, want at least 1 byte", func(c *websocket.Config) { c.Security = &websocket.SecurityConfig{HMACKey: []byte{}} }},
	}
	for i, tt := range tests {
		t.Run(fmt.Sprint(i, tt.field), func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			tt.change(&config)
			err := config.Validate()
			if tt.field == "" {
				require.NoError(t, err)
				require.NotNil(t, websocket.NewHub(nil, config))
				return
			}
			require.ErrorContains(t, err, "websocket: ")
			require.ErrorContains(t, err, tt.field)
			require.Equal(t, 1, strings.Count(err.Error(), "websocket: "), "%v", err)
			if strings.Contains(tt.field, "Security") {
				require.ErrorIs(t, err, websocket.ErrInvalidKey)
			}
			require.PanicsWithError(t, err.Error(), func() { websocket.NewHub(nil, config) })
		})
	}
}

// A duration of less than a millisecond is a number without a unit.
func TestConfigDurationNeedsUnit(t *testing.T) {
	t.Parallel()
	fields := map[string]func(c *websocket.Config) *time.Duration{
		"WriteWait":        func(c *websocket.Config) *time.Duration { return &c.WriteWait },
		"PongWait":         func(c *websocket.Config) *time.Duration { return &c.PongWait },
		"PingPeriod":       func(c *websocket.Config) *time.Duration { return &c.PingPeriod },
		"WriteTimeout":     func(c *websocket.Config) *time.Duration { return &c.WriteTimeout },
		"PongTimeout":      func(c *websocket.Config) *time.Duration { return &c.PongTimeout },
		"PingInterval":     func(c *websocket.Config) *time.Duration { return &c.PingInterval },
		"HandshakeTimeout": func(c *websocket.Config) *time.Duration { return &c.HandshakeTimeout },
		"FloodTimeout":     func(c *websocket.Config) *time.Duration { return &c.FloodTimeout },
		"MessageTimeout":   func(c *websocket.Config) *time.Duration { return &c.MessageTimeout },
		"BrokerTimeout":    func(c *websocket.Config) *time.Duration { return &c.BrokerTimeout },
		"AnnounceInterval": func(c *websocket.Config) *time.Duration { return &c.AnnounceInterval },
		"DrainTimeout":     func(c *websocket.Config) *time.Duration { return &c.DrainTimeout },
		"CallbackTimeout":  func(c *websocket.Config) *time.Duration { return &c.CallbackTimeout },
	}
	for name, field := range fields {
		config := websocket.DefaultConfig
		*field(&config) = 60
		require.EqualError(t, config.Validate(), "websocket: Config."+name+" is 60ns, but the minimum is 1ms: give it a unit, such as 10*time.Second", name)
		*field(&config) = time.Millisecond
		require.NoError(t, config.Validate(), name)
	}
}

// The caller may change its Config after NewHub.
func TestConfigIsCopied(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.Subprotocols = []string{"msgpack", "json"}
	config.Codecs = []websocket.Codec{websocket.JSONCodec{}, websocket.MsgpackCodec{}}
	config.Compression = &websocket.CompressionConfig{Enabled: true}
	b := setup(t, config, options{})
	config.Subprotocols[0], config.Subprotocols[1] = "protobuf", "soap"
	config.Codecs[0], config.Codecs[1] = nil, nil
	config.Compression.Enabled = false
	p, _ := b.connect(t, dialing{codec: "msgpack", compress: true})
	p.do(t, wire{Type: "broadcast"})
	require.NotEmpty(t, p.response.Header.Get("Sec-Websocket-Extensions"))
}

func TestZeroConfigWorks(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.Config{}, options{})
	p, c := b.connect(t, dialing{codec: "protobuf", compress: true})
	require.Empty(t, p.response.Header.Get("Sec-Websocket-Extensions"), "Compression is nil")
	require.Regexp(t, "^[0-9a-f]{32}$", c.ID)
	p.do(t, wire{Type: "broadcast"})
}
