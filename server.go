package websocket

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"time"
)

// Time limits of the servers that the hub starts. They close connections that do not
// send requests.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
)

// ListenAndServe listens on a TCP address, such as "localhost:8080", and serves handler
// over HTTP. A nil handler means Hub.Handler. Run must be called in another goroutine;
// until then handshakes wait.
//
// ListenAndServe serves until the hub has shut down, waits at most Config.DrainTimeout
// for running requests, and returns http.ErrServerClosed. Before that it returns only
// the errors of net.Listen and http.Server.Serve. It may be called more than once, for
// several addresses.
func (h *Hub) ListenAndServe(addr string, handler http.Handler) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return h.serveListener(l, handler, nil)
}

// ListenAndServeTLS is like ListenAndServe but serves TLS with Config.TLS, for wss://
// URLs. It returns an error if Config.TLS has no certificate or a certificate file
// cannot be loaded.
func (h *Hub) ListenAndServeTLS(addr string, handler http.Handler) error {
	config, err := h.tlsConfig()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return h.serveListener(l, handler, config)
}

// Serve is like ListenAndServe but accepts connections from l, which it closes before
// it returns. If Config.TLS is set, it serves TLS like ListenAndServeTLS.
func (h *Hub) Serve(l net.Listener, handler http.Handler) error {
	var config *tls.Config
	if h.config.TLS != nil {
		var err error
		if config, err = h.tlsConfig(); err != nil {
			_ = l.Close() // the more important error is returned
			return err
		}
	}
	return h.serveListener(l, handler, config)
}

var errNoCertificate = errors.New("websocket: Config.TLS has no certificate: set CertFile and KeyFile, or a TLSConfig with certificates")

// tlsConfig returns a copy of the tls.Config with the certificate files and the
// settings that WebSocket over TLS needs.
func (h *Hub) tlsConfig() (*tls.Config, error) {
	t := h.config.TLS
	if t == nil {
		return nil, errNoCertificate
	}
	config := &tls.Config{}
	if t.TLSConfig != nil {
		config = t.TLSConfig.Clone()
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	config.NextProtos = []string{"http/1.1"} // handshakes need HTTP/1.1
	if t.CertFile != "" || t.KeyFile != "" {
		certificate, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, err
		}
		config.Certificates = append(config.Certificates[:len(config.Certificates):len(config.Certificates)], certificate)
	}
	if len(config.Certificates) == 0 && config.GetCertificate == nil && config.GetConfigForClient == nil {
		return nil, errNoCertificate
	}
	return config, nil
}

// warnings logs the messages of an http.Server, such as failed TLS handshakes.
type warnings struct{ logger Logger }

func (w warnings) Write(b []byte) (int, error) {
	w.logger.Warningf("websocket: %s", bytes.TrimSpace(b))
	return len(b), nil
}

// serveListener serves on l until the hub has shut down. A nil config means no TLS.
func (h *Hub) serveListener(l net.Listener, handler http.Handler, config *tls.Config) error {
	if handler == nil {
		handler = h.Handler()
	}
	server := &http.Server{
		Handler:           handler,
		TLSConfig:         config,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    h.config.MaxHeaderBytes,
		ErrorLog:          log.New(warnings{h.logger}, "", 0),
	}
	served := make(chan struct{}) // closed below, received by the goroutine
	closed := make(chan struct{}) // closed by the goroutine, received below
	go func() {                   // ends when Serve has returned or the hub has shut down
		defer close(closed)
		select {
		case <-h.done:
			ctx, cancel := context.WithTimeout(context.Background(), h.config.DrainTimeout)
			defer cancel()
			_ = server.Shutdown(ctx) // Close ends the remaining connections
		case <-served:
		}
		_ = server.Close() // does not affect hijacked connections
	}()
	var err error
	if config != nil {
		err = server.ServeTLS(l, "", "")
	} else {
		err = server.Serve(l)
	}
	close(served)
	<-closed
	return err
}
