package websocket_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// The tests in this file prove compatibility with the documentation of HypGo's
// WebSocket package. The tests TestHypGo* contain its samples verbatim, except for the
// names of other packages. The types below have the shape of HypGo's router, logger
// and context.

// hypContext is a pooled context. The router clears it when the handler has returned.
type hypContext struct {
	Request  *http.Request
	Response http.ResponseWriter
}

func (c *hypContext) GetHeader(key string) string { return c.Request.Header.Get(key) }
func (c *hypContext) Query(key string) string     { return c.Request.URL.Query().Get(key) }
func (c *hypContext) AbortWithStatus(code int)    { c.Response.WriteHeader(code) }

// ginContext has its writer in the field Writer, whose type is another interface.
type ginContext struct {
	Request *http.Request
	Writer  interface {
		http.ResponseWriter
		Status() int
	}
}

func (c *ginContext) GetHeader(key string) string { return c.Request.Header.Get(key) }
func (c *ginContext) Query(key string) string     { return c.Request.URL.Query().Get(key) }
func (c *ginContext) AbortWithStatus(code int)    { c.Writer.WriteHeader(code) }

// statusWriter implements gin's writer interface.
type statusWriter struct{ unwrapper }

func (statusWriter) Status() int { return 0 }

type hypRouter struct{ mux *http.ServeMux }

var hypContexts = sync.Pool{New: func() any { return new(hypContext) }}

// router and logger replace the packages that HypGo's documentation imports.
var (
	router hypRouterPackage
	logger hypLoggerPackage
)

type (
	hypRouterPackage struct{}
	hypLoggerPackage struct{}
)

func (hypRouterPackage) New() *hypRouter             { return &hypRouter{http.NewServeMux()} }
func (hypLoggerPackage) NewLogger() websocket.Logger { return &logCapture{} }

func (r *hypRouter) GET(path string, handler func(c *hypContext)) {
	r.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		c := hypContexts.Get().(*hypContext)
		c.Request, c.Response = r.WithContext(context.WithValue(r.Context(), userKey{}, r.URL.Query().Get("user"))), w
		defer func() {
			*c = hypContext{} // the next request reuses it
			hypContexts.Put(c)
		}()
		handler(c)
	})
}

type userKey struct{}

// TestHypGoBasicUsage runs the first program of HypGo's documentation.
func TestHypGoBasicUsage(t *testing.T) {
	t.Parallel()
	var printed syncBuffer
	log := log.New(&printed, "", 0)

	r := router.New()
	l := logger.NewLogger()

	// 1. Create Hub to manage all connections
	hub := websocket.NewHub(l, websocket.DefaultConfig)

	// 2. Define event callbacks
	disconnected := make(chan struct{}) // closed by onDisconnect
	hub.SetCallbacks(
		func(client *websocket.Client) {
			log.Printf("New connection joined! ID: %s, Codec: %s", client.ID, client.Codec().Name())
		},
		func(client *websocket.Client) {
			log.Printf("Connection disconnected! ID: %s", client.ID)
			close(disconnected)
		},
		func(client *websocket.Client, msg *websocket.Message) {
			log.Printf("Message received! Type: %s, Data: %s", msg.Type, string(msg.Data))
		},
	)

	// 3. Start Hub's message dispatch and dead connection cleanup in background
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(ctx) }() // ends with ctx

	// 4. Define route and WebSocket connection upgrade endpoint
	r.GET("/ws", func(c *hypContext) {
		hub.ServeHTTP(c)
	})

	server := httptest.NewServer(r.mux)
	defer server.Close()
	b := &bundle{server: server, url: "ws" + server.URL[len("http"):] + "/ws"}
	p := b.dial(t, dialing{codec: "flatbuffers"})
	p.send(t, wire{Type: "chat", Data: []byte("hello")})
	p.closeCleanly(t)
	await(t, disconnected)
	cancel()
	require.NoError(t, await(t, ran))
	require.Regexp(t, `^New connection joined! ID: ([0-9a-f]{32}), Codec: flatbuffers
Message received! Type: chat, Data: hello
Connection disconnected! ID: ([0-9a-f]{32})
$`, printed.String())
}

// syncBuffer is a bytes.Buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestClientOutlivesRecycledContext returns each connection's context to the pool, so
// that the next connection reuses it. Client.Request must keep the values of its own
// request.
func TestClientOutlivesRecycledContext(t *testing.T) {
	t.Parallel()
	const connections = 20
	r := router.New()
	b := setup(t, websocket.DefaultConfig, options{
		handler: func(h *websocket.Hub) http.Handler {
			r.GET("/", func(c *hypContext) { h.ServeHTTP(c) })
			return r.mux
		},
		onConnect: func(c *websocket.Client) {
			hc, ok := c.FrameworkContext().(*hypContext)
			c.SetMetadata("in onConnect", ok && hc.Query("user") != "" && hc.GetHeader("X-User") == hc.Query("user"))
		},
	})
	var clients []*websocket.Client
	var peers []*peer
	for i := range connections {
		user := fmt.Sprint("user", i)
		p, c := b.connect(t, dialing{query: "user=" + user, header: http.Header{"X-User": {user}}})
		p.do(t, wire{Type: "broadcast"}) // onConnect has returned
		ok, _ := c.GetMetadata("in onConnect")
		require.Equal(t, true, ok)
		require.Nil(t, c.FrameworkContext(), "the context was recycled")
		clients, peers = append(clients, c), append(peers, p)
	}
	for i, c := range clients {
		user := fmt.Sprint("user", i)
		require.Equal(t, user, c.Request().URL.Query().Get("user"))
		require.Equal(t, user, c.Request().Header.Get("X-User"))
		require.Equal(t, user, c.Request().Context().Value(userKey{}), "a value from middleware")
		require.NoError(t, c.Request().Context().Err())
	}
	for i, p := range peers {
		require.NoError(t, p.Conn.Close())
		c := b.disconnected.take(t)
		require.Same(t, clients[i], c)
		await(t, c.Request().Context().Done())
		require.Equal(t, fmt.Sprint("user", i), c.Request().URL.Query().Get("user"), "after the connection ended")
	}
}

// TestServeHTTPAcceptsContextShapes upgrades through every supported shape of a
// framework's context. ServeHTTP must answer the other shapes with status 500.
func TestServeHTTPAcceptsContextShapes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		context func(w http.ResponseWriter, r *http.Request) websocket.Context
		status  int
	}{
		{"Response", func(w http.ResponseWriter, r *http.Request) websocket.Context {
			return &hypContext{Request: r, Response: w}
		}, 101},
		{"Writer", func(w http.ResponseWriter, r *http.Request) websocket.Context {
			return &ginContext{Request: r, Writer: statusWriter{unwrapper{w}}}
		}, 101},
		{"by value", func(w http.ResponseWriter, r *http.Request) websocket.Context {
			return valueContext{plainContext{w}, r, w}
		}, 101},
		{"no fields", func(w http.ResponseWriter, _ *http.Request) websocket.Context {
			return plainContext{w}
		}, 500},
		{"no request", func(w http.ResponseWriter, _ *http.Request) websocket.Context {
			return &hypContext{Response: w}
		}, 500},
		{"unexported", func(w http.ResponseWriter, r *http.Request) websocket.Context {
			return &hiddenContext{plainContext{w}, r, w}
		}, 500},
		{"other types", func(w http.ResponseWriter, r *http.Request) websocket.Context {
			return &oddContext{plainContext{w}, *r, w}
		}, 500},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, websocket.DefaultConfig, options{
				logsError: tt.status == 500,
				handler: func(h *websocket.Hub) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(tt.context(w, r)) })
				},
			})
			p, err := b.tryDial(dialing{})
			require.Equal(t, tt.status, p.response.StatusCode)
			if tt.status == 500 {
				require.Error(t, err)
				require.Len(t, b.logs.matching("error", "ServeHTTP"), 1)
				return
			}
			require.NoError(t, err)
			p.do(t, wire{Type: "broadcast"})
			require.NoError(t, p.Conn.Close())
		})
	}
}

// plainContext has no request.
type plainContext struct{ w http.ResponseWriter }

func (plainContext) GetHeader(string) string  { return "" }
func (plainContext) Query(string) string      { return "" }
func (c plainContext) AbortWithStatus(st int) { c.w.WriteHeader(st) }

// valueContext is passed by value.
type valueContext struct {
	plainContext
	Request  *http.Request
	Response http.ResponseWriter
}

// hiddenContext has unexported fields.
type hiddenContext struct {
	plainContext
	request  *http.Request
	response http.ResponseWriter
}

// oddContext has a field Request of another type.
type oddContext struct {
	plainContext
	Request  http.Request
	Response http.ResponseWriter
}

// TestHypGoDialer runs the Go client of HypGo's documentation.
func TestHypGoDialer(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})

	dialer := websocket.Dialer{
		Subprotocols: []string{"protobuf"},
	}
	conn, _, err := dialer.Dial(b.url, nil)

	require.NoError(t, err)
	require.Equal(t, "protobuf", conn.Subprotocol())
	require.Equal(t, "protobuf", b.connected.take(t).Codec().Name())
	require.NoError(t, conn.Close())
}

// hypGoCodec is the interface Codec of HypGo's documentation.
type hypGoCodec interface {
	Name() string                                        // "json", "protobuf", "flatbuffers", "msgpack"
	Index() int                                          // Stable unique index (for cache keys)
	Marshal(msg *websocket.Message) ([]byte, error)      // Serialize
	Unmarshal(data []byte, msg *websocket.Message) error // Deserialize
	WebSocketMessageType() int                           // TextMessage (JSON) or BinaryMessage (others)
}

// hypGoControlDecoder is the interface ControlDecoder of HypGo's documentation.
type hypGoControlDecoder interface {
	DecodeChannel(data []byte) string
	DecodeRoomID(data []byte) string
}

// TestHypGoCodecs checks the documented interfaces and the documented table of codecs.
func TestHypGoCodecs(t *testing.T) {
	t.Parallel()
	var documented hypGoCodec = websocket.Codec(websocket.JSONCodec{})
	var codec websocket.Codec = documented
	var decoder hypGoControlDecoder = websocket.ControlDecoder(websocket.ProtobufCodec{})
	require.Equal(t, "json", codec.Name())
	require.Equal(t, "x", decoder.DecodeChannel(protoChannel("x")))
	require.Equal(t, "y", decoder.DecodeRoomID(protoRoom("y")))

	for i, codec := range []hypGoCodec{websocket.JSONCodec{}, websocket.ProtobufCodec{}, websocket.FlatBuffersCodec{}, websocket.MsgpackCodec{}} {
		require.Equal(t, subprotocols[i], codec.Name())
		require.Equal(t, i, codec.Index())
		want := websocket.BinaryMessage
		if i == 0 {
			want = websocket.TextMessage
		}
		require.Equal(t, want, codec.WebSocketMessageType())
		_, decodes := codec.(hypGoControlDecoder)
		require.Equal(t, codec.Name() == "protobuf", decodes)
	}
}

// TestHypGoClientCodec runs the documented sample of Client.Codec.
func TestHypGoClientCodec(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{notRun: true})
	hub := b.hub
	var printed syncBuffer
	log := log.New(&printed, "", 0)

	hub.SetCallbacks(
		func(client *websocket.Client) {
			codec := client.Codec()
			log.Printf("Client %s using %s encoding (index %d)", client.ID, codec.Name(), codec.Index())
		},
		nil, nil,
	)

	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(ctx) }() // ends with ctx
	p := b.dial(t, dialing{codec: "msgpack"})
	p.do(t, wire{Type: "broadcast"}) // without onMessage
	require.NoError(t, p.Conn.Close())
	cancel()
	require.NoError(t, await(t, ran))
	require.Regexp(t, `^Client [0-9a-f]{32} using msgpack encoding \(index 3\)\n$`, printed.String())
}

// TestHypGoSubprotocols runs the documented sample of Config.Subprotocols.
func TestHypGoSubprotocols(t *testing.T) {
	t.Parallel()
	l := logger.NewLogger()
	{
		config := websocket.DefaultConfig
		config.Subprotocols = []string{"json"} // Allow JSON only
		_ = websocket.NewHub(l, config)

		b := setup(t, config, options{})
		p, err := b.tryDial(dialing{codec: "protobuf"})
		require.Error(t, err)
		require.Equal(t, http.StatusBadRequest, p.response.StatusCode)
		p, _ = b.connect(t, dialing{codec: "json"})
		p.do(t, wire{Type: "broadcast"})
	}
	// Or
	config := websocket.DefaultConfig
	config.Subprotocols = []string{"json", "protobuf", "flatbuffers", "msgpack"} // Default: all four
	hub := websocket.NewHub(l, config)

	require.Equal(t, websocket.DefaultConfig.Subprotocols, config.Subprotocols)
	require.NotNil(t, hub)
}

// TestHypGoSecurity runs the documented sample of Config.Security.
func TestHypGoSecurity(t *testing.T) {
	t.Parallel()
	keys := randomKeys()
	myAES256Key, myHMACKey := keys.aes, keys.hmac

	config := websocket.DefaultConfig
	config.Security = &websocket.SecurityConfig{
		AESKey:          myAES256Key, // 32 bytes, nil = no encryption
		HMACKey:         myHMACKey,   // Any length, nil = no signing
		SignThenEncrypt: true,        // true (default): sign first then encrypt
	}

	b := setup(t, config, options{})
	p, _ := b.connect(t, dialing{keys: keys})
	p.send(t, wire{Type: "broadcast", Data: []byte(`"x"`)})
	require.Equal(t, `"x"`, string(p.read(t).Data))
	require.Equal(t, config.Security, websocket.NewSecurityConfig(myAES256Key, myHMACKey), "NewSecurityConfig must use the documented default order")
}

// TestHypGoPerClientKeys runs the documented sample of keys for each client.
func TestHypGoPerClientKeys(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{notRun: true})
	hub := b.hub
	derive := func(purpose, id string) []byte {
		mac := hmac.New(sha256.New, []byte(purpose))
		mac.Write([]byte(id))
		return mac.Sum(nil)
	}
	deriveKeyForUser := func(id string) []byte { return derive("aes", id) }
	deriveHMACKeyForUser := func(id string) []byte { return derive("hmac", id) }
	ids := make(chan string, 1)

	hub.SetCallbacks(
		func(client *websocket.Client) {
			// Set client-specific keys based on authentication results
			clientAESKey := deriveKeyForUser(client.ID)
			client.SetEncryptionKey(clientAESKey)

			clientHMACKey := deriveHMACKeyForUser(client.ID)
			client.SetHMACKey(clientHMACKey)
			ids <- client.ID
		},
		nil, nil,
	)

	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(ctx) }() // ends with ctx
	p := b.dial(t, dialing{codec: "protobuf"})
	id := await(t, ids)
	p.keys = wireKeys{aes: deriveKeyForUser(id), hmac: deriveHMACKeyForUser(id), signThenEncrypt: true}
	p.send(t, wire{Type: "broadcast", Data: []byte("x")})
	require.Equal(t, "x", string(p.read(t).Data))
	require.NoError(t, p.Conn.Close())
	cancel()
	require.NoError(t, await(t, ran))
}

// TestHypGoStandaloneFunctions runs the documented sample of Encrypt, Decrypt, Sign
// and Verify.
func TestHypGoStandaloneFunctions(t *testing.T) {
	t.Parallel()

	key := make([]byte, 32) // AES-256 key
	plaintext := []byte("sensitive data")

	// Encrypt
	ciphertext, err := websocket.Encrypt(plaintext, key)
	require.NoError(t, err)
	// Decrypt
	decrypted, err := websocket.Decrypt(ciphertext, key)
	require.NoError(t, err)

	// Sign
	hmacKey := []byte("my-hmac-secret")
	signed := websocket.Sign(plaintext, hmacKey)
	// Verify
	verified, err := websocket.Verify(signed, hmacKey)
	require.NoError(t, err)

	require.Equal(t, plaintext, decrypted)
	require.Equal(t, plaintext, verified)
	independent, err := wireKeys{aes: key}.decrypt(ciphertext)
	require.NoError(t, err)
	require.Equal(t, plaintext, independent)
	require.Equal(t, wireKeys{hmac: hmacKey}.sign(plaintext), signed)
}

// TestHypGoCompression runs the documented sample of Config.Compression.
func TestHypGoCompression(t *testing.T) {
	t.Parallel()

	config := websocket.DefaultConfig
	config.Compression = &websocket.CompressionConfig{
		Enabled: true, // Default true
		Level:   6,    // flate compression level 1-9, 0=default
	}

	b := setup(t, config, options{})
	p, c := b.connect(t, dialing{compress: true})
	require.NoError(t, c.Send(&websocket.Message{Data: bytes.Repeat([]byte{'1'}, 1000)}))
	require.Len(t, p.read(t).Data, 1000)
	require.True(t, p.tap.frames(t)[0].deflated())
}

// TestHypGoTLS runs the documented sample of Config.TLS.
func TestHypGoTLS(t *testing.T) {
	t.Parallel()
	l := logger.NewLogger()
	dir := t.TempDir()
	made := makeCertificate(t, dir)
	myTLSConfig := made.serverConfig()

	config := websocket.DefaultConfig
	config.TLS = &websocket.TLSConfig{
		CertFile: filepath.Join(dir, "cert.pem"),
		KeyFile:  filepath.Join(dir, "key.pem"),
	}
	// Or provide a pre-configured tls.Config
	config.TLS = &websocket.TLSConfig{
		TLSConfig: myTLSConfig,
	}
	hub := websocket.NewHub(l, config)

	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hub.Handler().ServeHTTP(w, r)
	})

	require.NoError(t, hub.Shutdown(t.Context())) // makes ListenAndServeTLS return at once
	// Start WSS server
	err := hub.ListenAndServeTLS("127.0.0.1:0", handler)

	require.ErrorIs(t, err, http.ErrServerClosed)
}

// TestHypGoChannelsAndRooms runs the documented sample of publishing.
func TestHypGoChannelsAndRooms(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.ClientID = func(r *http.Request) (string, error) { return r.URL.Query().Get("id"), nil }
	b := setup(t, config, options{})
	hub := b.hub
	p, client := b.connect(t, dialing{codec: "msgpack", query: "id=client-123"})

	// Subscribe a client to a specific channel
	client.Subscribe("news")

	// Push structured Message to all subscribers in a channel (supports cross-protocol + security pipeline)
	msg := websocket.AcquireMessage()
	msg.Type = "message"
	msg.Channel = "news"
	msg.Data = []byte(`{"headline": "Breaking News!"}`)
	hub.PublishToChannel("news", msg)
	msg.Release()

	// Or use the backward-compatible raw bytes API
	hub.PublishToChannelRaw("news", []byte(`{"headline": "Breaking News!"}`))

	// Join a Room for games or chat
	client.JoinRoom("room_101")

	// Global broadcast
	hub.Broadcast([]byte(`{"event": "server_restart"}`))

	// Send to a specific client (automatically uses that client's codec + security pipeline)
	msg = websocket.AcquireMessage()
	msg.Data = []byte("only you")
	hub.SendToClient("client-123", msg)
	msg.Release()

	for _, want := range []wire{
		{Type: "message", Channel: "news", Data: []byte(`{"headline": "Breaking News!"}`)},
		{Type: "message", Channel: "news", Data: []byte(`{"headline": "Breaking News!"}`)},
		{Type: "broadcast", Data: []byte(`{"event": "server_restart"}`)},
		{Type: "message", Data: []byte("only you")},
	} {
		got := p.read(t)
		want.Timestamp = got.Timestamp
		require.Equal(t, want, got)
	}
	members, err := hub.RoomMembers(t.Context(), "room_101")
	require.NoError(t, err)
	require.Equal(t, []string{"client-123"}, members)
}

// TestHypGoCompleteConfiguration runs the documented sample of a complete Config.
func TestHypGoCompleteConfiguration(t *testing.T) {
	t.Parallel()
	l := logger.NewLogger()
	keys := randomKeys()
	aes256Key, hmacSecret := keys.aes, keys.hmac

	config := websocket.Config{
		ReadBufferSize:    1024,
		WriteBufferSize:   1024,
		MaxMessageSize:    65536,
		WriteWait:         10 * time.Second,
		PongWait:          60 * time.Second,
		PingPeriod:        54 * time.Second,
		EnableCompression: true,
		Subprotocols:      []string{"json", "protobuf", "flatbuffers", "msgpack"},
		// Compression configuration (overrides EnableCompression)
		Compression: &websocket.CompressionConfig{
			Enabled: true,
			Level:   6,
		},
		// Security configuration
		Security: &websocket.SecurityConfig{
			AESKey:          aes256Key, // 32 bytes
			HMACKey:         hmacSecret,
			SignThenEncrypt: true,
		},
		// TLS configuration (standalone mode)
		TLS: &websocket.TLSConfig{
			CertFile: "cert.pem",
			KeyFile:  "key.pem",
		},
	}
	hub := websocket.NewHub(l, config)

	require.NoError(t, config.Validate())
	err := hub.ListenAndServeTLS("127.0.0.1:0", nil)
	require.Error(t, err) // the certificate files do not exist
	require.NotErrorIs(t, err, http.ErrServerClosed)

	b := setup(t, config, options{})
	p, _ := b.connect(t, dialing{codec: "flatbuffers", keys: keys, compress: true})
	p.do(t, wire{Type: "broadcast"})
}

// TestHypGoSecondNames sets HypGo's names of timeouts in a copy of DefaultConfig, which
// has other values under the documented names.
func TestHypGoSecondNames(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.PingInterval = 2 * time.Second
		config.PongTimeout = 5 * time.Second
		config.WriteTimeout = time.Second
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		peer := hub.raw(handshakeOf()).requireOpen()
		began := time.Now()
		peer.require(fin|pingOp, "")
		require.Equal(t, 2*time.Second, time.Since(began))
		peer.requireEnd(websocket.CloseTimeout)
		require.Equal(t, 10*time.Second, time.Since(began), "PongTimeout, and 5 s for the Close frame")
		_ = peer.nc.Close()
	})
}

// TestHypGoNames uses names that HypGo's package has and its documentation does not.
func TestHypGoNames(t *testing.T) {
	t.Parallel()
	b := setup(t, withQueryID(websocket.DefaultConfig), options{})
	p, client := b.connect(t, dialing{query: "id=ann"})
	hub := client.Hub()
	require.Same(t, b.hub, hub)

	for _, name := range subprotocols {
		require.Equal(t, name, websocket.CodecByName(name).Name())
	}
	require.Equal(t, websocket.JSONCodec{}, websocket.CodecByName(""))
	require.Equal(t, websocket.JSONCodec{}, websocket.CodecByName("soap"))

	p.subscribe(t, "news")
	p.joinRoom(t, "room_101")
	room := hub.Room("room_101")
	require.Equal(t, "room_101", room.ID)
	require.NoError(t, room.Broadcast([]byte(`1`)))
	require.NoError(t, room.Publish(&websocket.Message{Type: "own", Data: []byte(`2`)}))
	require.NoError(t, client.SendJSON(map[string]int{"n": 3}))
	require.NoError(t, hub.SendJSON("ann", []int{4}))
	require.NoError(t, hub.SendJSON("ann", &websocket.Message{Type: "own", Data: []byte(`5`)}))
	for _, want := range []wire{
		{Type: "room_message", Channel: "room_101", Data: []byte(`1`)},
		{Type: "own", Channel: "room_101", Data: []byte(`2`)},
		{Type: "message", Data: []byte(`{"n":3}`)},
		{Type: "message", Data: []byte(`[4]`)},
		{Type: "own", Data: []byte(`5`)},
	} {
		got := p.read(t)
		want.Timestamp = got.Timestamp
		require.Equal(t, want, got)
	}
	require.Error(t, client.SendJSON(func() {}))
	require.Error(t, hub.SendJSON("ann", func() {}))
	require.ErrorIs(t, hub.SendJSON("bob", 1), websocket.ErrClientNotFound)
	members, err := room.Members(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"ann"}, members)

	stats := hub.GetStats()
	st := hub.Stats()
	require.Equal(t, map[string]any{
		"total_connections": int64(1), "active_connections": int64(1), "total_clients": 1,
		"messages_sent": stats["messages_sent"], "messages_received": int64(2),
		"bytes_sent": stats["bytes_sent"], "bytes_received": int64(st.BytesReceived),
		"total_channels": 1, "total_rooms": 1, "channels": map[string]int{"news": 1}, "rooms": map[string]int{"room_101": 1},
	}, stats)
	require.IsType(t, int64(0), stats["messages_sent"])
	require.IsType(t, int64(0), stats["bytes_sent"])
}

// TestUpgrader accepts connections beside the hub, with the Config's checks.
func TestUpgrader(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.AllowedOrigins = []string{"app.example.com"}
	config.MaxMessageSize = 100
	upgrader := websocket.NewUpgrader(config)
	served := make(chan error, 1) // the handler sends, the test receives
	b := setup(t, config, options{handler: func(*websocket.Hub) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, err := upgrader.Upgrade(w, r, http.Header{"X-Node": {"a"}})
			if err != nil {
				return
			}
			defer conn.Close()
			for {
				kind, data, err := conn.ReadMessage()
				if err != nil {
					served <- err
					return
				}
				_ = conn.WriteMessage(kind, data) // the peer notices a failure
			}
		})
	}})
	p := b.dial(t, dialing{codec: "msgpack", compress: true, header: http.Header{"Origin": {"https://app.example.com"}}})
	require.Equal(t, "msgpack", p.Subprotocol())
	require.Equal(t, "a", p.response.Header.Get("X-Node"))
	require.Empty(t, p.response.Header.Get("Sec-Websocket-Extensions"))
	p.sendRaw(t, websocket.BinaryMessage, []byte("echo"))
	_, data, err := p.ReadMessage()
	require.NoError(t, err)
	require.Equal(t, "echo", string(data))
	p.sendRaw(t, websocket.BinaryMessage, make([]byte, 101))
	require.Error(t, await(t, served))

	refused, err := b.tryDial(dialing{header: http.Header{"Origin": {"https://evil.example"}}})
	require.Error(t, err)
	require.Equal(t, http.StatusForbidden, refused.response.StatusCode)
	require.Panics(t, func() { websocket.NewUpgrader(websocket.Config{Shards: -1}) })
}

var _ = websocket.Context((*hypContext)(nil))
