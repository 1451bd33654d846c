package websocket_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
)

// certificate is a self-signed certificate for 127.0.0.1.
type certificate struct {
	certFile, keyFile string
	pair              tls.Certificate
	pool              *x509.CertPool
}

// makeCertificate makes a certificate and writes its files to dir.
func makeCertificate(t testing.TB, dir string) certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})

	c := certificate{certFile: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem"), pool: x509.NewCertPool()}
	require.NoError(t, os.WriteFile(c.certFile, certPEM, 0o600))
	require.NoError(t, os.WriteFile(c.keyFile, keyPEM, 0o600))
	c.pair, err = tls.X509KeyPair(certPEM, keyPEM)
	require.NoError(t, err)
	require.True(t, c.pool.AppendCertsFromPEM(certPEM))
	return c
}

func (c certificate) serverConfig() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{c.pair}, MinVersion: tls.VersionTLS10}
}

func (c certificate) clientConfig() *tls.Config { return &tls.Config{RootCAs: c.pool} }

// serving is a hub with its own server.
type serving struct {
	hub    *websocket.Hub
	addr   string
	ran    chan error // Run's result
	served chan error // the server's result
}

// serve starts a hub and its server on a free port.
func serve(t *testing.T, config websocket.Config, start func(h *websocket.Hub, addr string) error) *serving {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &serving{addr: l.Addr().String(), ran: make(chan error, 1), served: make(chan error, 1)}
	require.NoError(t, l.Close()) // the port is not given out again soon
	s.hub = websocket.NewHub(&logCapture{}, config)
	go func() { s.ran <- s.hub.Run(context.Background()) }() // ends with the hub
	await(t, s.hub.Started())
	go func() { s.served <- start(s.hub, s.addr) }()               // ends with the hub
	t.Cleanup(func() { _ = s.hub.Shutdown(context.Background()) }) // already stopped, unless the test failed
	return s
}

// dial tries until the server listens.
func (s *serving) dial(t *testing.T, url string, dialer *gorilla.Dialer) *gorilla.Conn {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		ws, _, err := dialer.Dial(url, nil)
		if err == nil {
			return ws
		}
		require.True(t, time.Now().Before(deadline), "%v", err)
	}
}

// requireStops echoes one message and stops the hub. The client must get a Close frame,
// Run must return nil, and the server http.ErrServerClosed.
func (s *serving) requireStops(t *testing.T, ws *gorilla.Conn) {
	t.Helper()
	require.NoError(t, ws.WriteMessage(gorilla.TextMessage, []byte(`{"type":"broadcast","data":1}`)))
	require.NoError(t, ws.SetReadDeadline(time.Now().Add(patience)))
	_, b, err := ws.ReadMessage()
	require.NoError(t, err)
	require.Contains(t, string(b), `"broadcast"`)

	shut := make(chan error, 1)
	go func() { shut <- s.hub.Shutdown(context.Background()) }() // ends with the hub
	_, _, err = ws.ReadMessage()
	require.True(t, gorilla.IsCloseError(err, websocket.CloseGoingAway), "%v", err)
	require.NoError(t, ws.Close())
	require.NoError(t, await(t, shut))
	require.NoError(t, await(t, s.ran))
	require.ErrorIs(t, await(t, s.served), http.ErrServerClosed)
	_, err = net.Dial("tcp", s.addr)
	require.Error(t, err, "the port is still open")
}

func TestListenAndServe(t *testing.T) {
	t.Parallel()
	mux := func(h *websocket.Hub) http.Handler {
		m := http.NewServeMux()
		m.Handle("/ws", h.Handler())
		return m
	}
	tests := []struct {
		name, path string
		start      func(h *websocket.Hub, addr string) error
	}{
		{"own handler", "/", func(h *websocket.Hub, addr string) error { return h.ListenAndServe(addr, h.Handler()) }},
		{"mux", "/ws", func(h *websocket.Hub, addr string) error { return h.ListenAndServe(addr, mux(h)) }},
		{"Serve", "/", func(h *websocket.Hub, addr string) error {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				return err
			}
			return h.Serve(l, h.Handler())
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, websocket.DefaultConfig, tt.start)
			ws := s.dial(t, "ws://"+s.addr+tt.path, &gorilla.Dialer{})
			s.requireStops(t, ws)
		})
	}
}

// defaultMuxRoutes counts the routes of http.DefaultServeMux, which cannot be removed.
var defaultMuxRoutes atomic.Int64

// A nil handler means http.DefaultServeMux, as in net/http. The hub is not reachable on
// paths that the application did not give it.
func TestNilHandlerIsDefaultServeMux(t *testing.T) {
	t.Parallel()
	made := makeCertificate(t, t.TempDir())
	serveOn := func(serve func(h *websocket.Hub, l net.Listener) error) func(h *websocket.Hub, addr string) error {
		return func(h *websocket.Hub, addr string) error {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				return err
			}
			return serve(h, l)
		}
	}
	tests := []struct {
		name   string
		scheme string
		start  func(h *websocket.Hub, addr string) error
	}{
		{"ListenAndServe", "http", func(h *websocket.Hub, addr string) error { return h.ListenAndServe(addr, nil) }},
		{"ListenAndServeTLS", "https", func(h *websocket.Hub, addr string) error { return h.ListenAndServeTLS(addr, nil) }},
		{"Serve", "http", serveOn(func(h *websocket.Hub, l net.Listener) error { return h.Serve(l, nil) })},
		{"Serve with TLS", "https", serveOn(func(h *websocket.Hub, l net.Listener) error { return h.Serve(l, nil) })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			dialer := gorilla.Dialer{}
			if tt.scheme == "https" {
				config.TLS = &websocket.TLSConfig{TLSConfig: made.serverConfig()}
				dialer.TLSClientConfig = made.clientConfig()
			}
			route := fmt.Sprint("/hub/", defaultMuxRoutes.Add(1))
			s := serve(t, config, func(h *websocket.Hub, addr string) error {
				http.Handle(route, h.Handler())
				return tt.start(h, addr)
			})
			ws := s.dial(t, "ws"+strings.TrimPrefix(tt.scheme, "http")+"://"+s.addr+route, &dialer)
			_, response, err := dialer.Dial("ws"+strings.TrimPrefix(tt.scheme, "http")+"://"+s.addr+"/", nil)
			require.ErrorIs(t, err, gorilla.ErrBadHandshake)
			require.Equal(t, http.StatusNotFound, response.StatusCode)
			s.requireStops(t, ws)
		})
	}
}

func TestListenAndServeTLS(t *testing.T) {
	t.Parallel()
	made := makeCertificate(t, t.TempDir())
	other := makeCertificate(t, t.TempDir())
	listen := func(h *websocket.Hub, addr string) error { return h.ListenAndServeTLS(addr, h.Handler()) }
	tests := []struct {
		name  string
		tls   websocket.TLSConfig
		start func(h *websocket.Hub, addr string) error
	}{
		{"files", websocket.TLSConfig{CertFile: made.certFile, KeyFile: made.keyFile}, listen},
		{"tls.Config", websocket.TLSConfig{TLSConfig: made.serverConfig()}, listen},
		{"GetCertificate", websocket.TLSConfig{TLSConfig: &tls.Config{
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &made.pair, nil },
		}}, listen},
		{"files beside a tls.Config", websocket.TLSConfig{
			CertFile: made.certFile, KeyFile: made.keyFile, TLSConfig: &tls.Config{NextProtos: []string{"h2", "http/1.1"}},
		}, listen},
		{"Serve", websocket.TLSConfig{CertFile: made.certFile, KeyFile: made.keyFile}, func(h *websocket.Hub, addr string) error {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				return err
			}
			return h.Serve(l, h.Handler())
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.TLS = &tt.tls
			s := serve(t, config, tt.start)
			ws := s.dial(t, "wss://"+s.addr, &gorilla.Dialer{TLSClientConfig: made.clientConfig()})

			dialOld := func(version uint16) error {
				old := made.clientConfig()
				old.MinVersion, old.MaxVersion = tls.VersionTLS10, version
				c, err := tls.Dial("tcp", s.addr, old)
				if err == nil {
					_ = c.Close()
				}
				return err
			}
			require.NoError(t, dialOld(tls.VersionTLS12))
			require.Error(t, dialOld(tls.VersionTLS11), "TLS 1.1 is accepted")
			_, err := tls.Dial("tcp", s.addr, other.clientConfig())
			require.Error(t, err, "the server has another certificate")

			h2 := made.clientConfig()
			h2.NextProtos = []string{"h2", "http/1.1"}
			c, err := tls.Dial("tcp", s.addr, h2)
			require.NoError(t, err)
			require.Equal(t, "http/1.1", c.ConnectionState().NegotiatedProtocol, "an upgrade needs HTTP/1.1")
			require.NoError(t, c.Close())

			s.requireStops(t, ws)
			if given := tt.tls.TLSConfig; given != nil {
				require.NotEqual(t, uint16(tls.VersionTLS12), given.MinVersion, "the given tls.Config was changed")
			}
		})
	}
}

func TestListenErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	made := makeCertificate(t, dir)
	newHub := func(c *websocket.TLSConfig) *websocket.Hub {
		config := websocket.DefaultConfig
		config.TLS = c
		return websocket.NewHub(&logCapture{}, config)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()

	require.Error(t, newHub(nil).ListenAndServe(taken.Addr().String(), nil), "the port is taken")
	require.ErrorContains(t, newHub(&websocket.TLSConfig{TLSConfig: made.serverConfig()}).ListenAndServe("127.0.0.1:0", nil), "ListenAndServeTLS", "plain HTTP in spite of Config.TLS")
	require.Error(t, newHub(&websocket.TLSConfig{TLSConfig: made.serverConfig()}).ListenAndServeTLS(taken.Addr().String(), nil))
	require.ErrorContains(t, newHub(nil).ListenAndServeTLS("127.0.0.1:0", nil), "certificate")

	for _, tt := range []struct {
		cert, key string
		cause     error // nil: any
		text      string
	}{
		{dir + "/none", made.keyFile, os.ErrNotExist, "websocket: Config.TLS.CertFile: stat " + dir + "/none: "},
		{made.certFile, dir + "/none", os.ErrNotExist, "websocket: Config.TLS.KeyFile: stat " + dir + "/none: "},
		{made.keyFile, made.certFile, nil, "websocket: Config.TLS: certificate " + made.keyFile + " with key " + made.certFile + ": tls: "},
	} {
		err := newHub(&websocket.TLSConfig{CertFile: tt.cert, KeyFile: tt.key}).ListenAndServeTLS("127.0.0.1:0", nil)
		require.ErrorContains(t, err, tt.text)
		if tt.cause != nil {
			require.ErrorIs(t, err, tt.cause)
		}
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorContains(t, newHub(&websocket.TLSConfig{CertFile: dir + "/none", KeyFile: made.keyFile}).Serve(l, nil), "CertFile")
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed, "Serve closes the listener in any case")
}

// TestServerEndsOtherConnections stops the hub while a connection has an incomplete
// request.
func TestServerEndsOtherConnections(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.DrainTimeout = 200 * time.Millisecond
	s := serve(t, config, func(h *websocket.Hub, addr string) error { return h.ListenAndServe(addr, h.Handler()) })
	ws := s.dial(t, "ws://"+s.addr, &gorilla.Dialer{})
	idle, err := net.Dial("tcp", s.addr)
	require.NoError(t, err)
	_, err = idle.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n"))
	require.NoError(t, err)
	s.requireStops(t, ws)
	require.NoError(t, idle.SetReadDeadline(time.Now().Add(patience)))
	_, err = idle.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, idle.Close())
}

// TestSlowHeader checks in fake time that the server closes a connection ten seconds after
// the start of an incomplete header, and after two minutes without a new request.
func TestSlowHeader(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, sent string
		responds   bool
		after      time.Duration
	}{
		{"slow header", "GET / HTTP/1.1\r\nHost: x\r\n", false, 10 * time.Second},
		{"idle", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", true, 2 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hub := websocket.NewHub(&logCapture{}, websocket.DefaultConfig)
				l := pipeListener{make(chan net.Conn), make(chan struct{})}
				ran, served := make(chan error, 1), make(chan error, 1)
				go func() { ran <- hub.Run(t.Context()) }()           // ends with the hub
				go func() { served <- hub.Serve(l, hub.Handler()) }() // ends with the hub

				client, server := net.Pipe()
				l.conns <- server
				began := time.Now()
				_, err := client.Write([]byte(tt.sent))
				require.NoError(t, err)
				response, err := io.ReadAll(client)
				require.NoError(t, err)
				require.Equal(t, tt.after, time.Since(began))
				require.Equal(t, tt.responds, bytes.Contains(response, []byte("426 Upgrade Required")), "%s", response)
				require.NoError(t, client.Close())

				require.NoError(t, hub.Shutdown(t.Context()))
				require.NoError(t, <-ran)
				require.ErrorIs(t, <-served, http.ErrServerClosed)
			})
		})
	}
}

// pipeListener accepts the connections that the test sends.
type pipeListener struct {
	conns  chan net.Conn // the test sends, Accept receives; never closed
	closed chan struct{} // closed by Close, which http.Server calls once
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Close() error   { close(l.closed); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// wrapped hides the type of a connection, as netutil.LimitListener does.
type wrapped struct{ net.Conn }

// TestStalledReaderBehindWrappedTLS has a peer on a wrapped TLS connection that reads
// nothing for some time and then everything. It must get all messages.
func TestStalledReaderBehindWrappedTLS(t *testing.T) {
	made := makeCertificate(t, t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		l := pipeListener{make(chan net.Conn), make(chan struct{})}
		hub := websocket.NewHub(&logCapture{}, websocket.Config{})
		subscribeAll("news")(hub)
		ran, served := make(chan error, 1), make(chan error, 1)
		go func() { ran <- hub.Run(t.Context()) }()           // ends with the hub
		go func() { served <- hub.Serve(l, hub.Handler()) }() // ends with the hub

		server, client := testnet.Pair(10_000)
		l.conns <- wrapped{tls.Server(server, made.serverConfig())}
		config := made.clientConfig()
		config.InsecureSkipVerify = true // the bubble's clock is not the certificate's
		ws, _, err := dialOver(tls.Client(client, config), nil)
		require.NoError(t, err)
		synctest.Wait()
		const messages = 100
		for i := range messages {
			require.NoError(t, hub.PublishToChannelRaw("news", numbered(i, 1000)))
		}
		time.Sleep(8 * time.Second) // shorter than WriteWait
		for i := range messages {
			_, b, err := ws.ReadMessage()
			require.NoError(t, err)
			require.Contains(t, string(b), string(numbered(i, 1000)))
		}
		require.Zero(t, hub.Stats().Dropped.Total())
		_ = ws.Close()
		require.NoError(t, hub.Shutdown(t.Context()))
		require.NoError(t, <-ran)
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
}

// tlsServing is a hub that serves TLS on in-memory connections, in a synctest bubble.
type tlsServing struct {
	t      *testing.T
	hub    *websocket.Hub
	logs   *logCapture
	l      pipeListener
	ran    chan error // Run's result
	served chan error // Serve's result
}

func serveTLS(t *testing.T, config websocket.TLSConfig) *tlsServing {
	s := &tlsServing{t, nil, &logCapture{}, pipeListener{make(chan net.Conn), make(chan struct{})}, make(chan error, 1), make(chan error, 1)}
	s.hub = websocket.NewHub(s.logs, websocket.Config{TLS: &config})
	go func() { s.ran <- s.hub.Run(t.Context()) }() // ends with the hub
	<-s.hub.Started()
	go func() { s.served <- s.hub.Serve(s.l, nil) }() // ends with the hub
	return s
}

// stop shuts the hub down.
func (s *tlsServing) stop() {
	s.t.Helper()
	require.NoError(s.t, s.hub.Shutdown(s.t.Context()))
	require.NoError(s.t, <-s.ran)
	require.ErrorIs(s.t, <-s.served, http.ErrServerClosed)
}

// handshake does a TLS handshake that offers protocols, and returns its result.
func (s *tlsServing) handshake(protocols ...string) (tls.ConnectionState, error) {
	server, client := testnet.Pair(1 << 16)
	s.l.conns <- server
	c := tls.Client(client, &tls.Config{NextProtos: protocols, InsecureSkipVerify: true}) // the bubble's clock is not the certificate's
	err := c.Handshake()
	state := c.ConnectionState()
	_ = c.Close()
	synctest.Wait()
	return state, err
}

// TestALPN checks that the server selects no version of HTTP but HTTP/1.1, and keeps
// protocols for other purposes.
func TestALPN(t *testing.T) {
	made := makeCertificate(t, t.TempDir())
	with := func(protocols ...string) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{made.pair}, NextProtos: protocols}
	}
	perClient := func(c *tls.Config) *tls.Config {
		return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c, nil }}
	}
	autocert := []string{"h2", "http/1.1", "acme-tls/1"}
	for name, config := range map[string]*tls.Config{
		"fixed":                  with(autocert...),
		"for each client":        perClient(with(autocert...)),
		"without HTTP/1.1":       with("h2", "acme-tls/1"),
		"each, without HTTP/1.1": perClient(with("h2", "acme-tls/1")),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := serveTLS(t, websocket.TLSConfig{TLSConfig: config})
				for offer, want := range map[string]string{"http/1.1": "http/1.1", "acme-tls/1": "acme-tls/1", "": ""} {
					var offers []string
					if offer != "" {
						offers = []string{offer}
					}
					state, err := s.handshake(offers...)
					require.NoError(t, err, offer)
					require.Equal(t, want, state.NegotiatedProtocol)
				}
				state, err := s.handshake("h2", "http/1.1")
				require.NoError(t, err)
				require.Equal(t, "http/1.1", state.NegotiatedProtocol)
				_, err = s.handshake("h2")
				require.ErrorContains(t, err, "no application protocol")
				s.stop()
			})
		})
	}
}

// TestProbesDoNotFloodTheLog connects to the TLS port without a handshake.
func TestProbesDoNotFloodTheLog(t *testing.T) {
	made := makeCertificate(t, t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		s := serveTLS(t, websocket.TLSConfig{TLSConfig: made.serverConfig()})
		probe := func(sent string) {
			server, client := testnet.Pair(1 << 16)
			s.l.conns <- server
			_, err := client.Write([]byte(sent))
			require.NoError(t, err)
			_ = client.Close()
			synctest.Wait()
		}
		for range 55 {
			probe("")
		}
		require.Len(t, s.logs.matching("warning", "TLS handshake error"), 5)
		probe("hello, this is no TLS\r\n")
		require.Len(t, s.logs.matching("warning", "does not look like"), 1, "the first line of another kind")
		time.Sleep(time.Minute)
		probe("")
		probe("")
		lines := s.logs.matching("warning", "EOF")
		require.Len(t, lines, 7)
		require.Contains(t, lines[5], "EOF (50 similar lines were left out)")
		require.NotContains(t, lines[6], "left out")
		s.stop()
	})
}
