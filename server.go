package websocket

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Time limits of the servers that the hub starts. They close connections that do not
// send requests.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
)

// ListenAndServe listens on a TCP address, such as "localhost:8080", and serves handler
// over HTTP. A nil handler means http.DefaultServeMux, as in net/http; to serve only
// the hub, pass Hub.Handler. Run must be called in another goroutine; until then
// handshakes wait.
//
// ListenAndServe serves until the hub has shut down, waits at most Config.DrainTimeout
// for running requests, and returns http.ErrServerClosed. Before that it returns only
// the errors of net.Listen and http.Server.Serve. It may be called more than once, for
// several addresses. If Config.TLS is set it returns an error, so that no server is
// without TLS by mistake: call ListenAndServeTLS, or use Handler with an http.Server.
func (h *Hub) ListenAndServe(addr string, handler http.Handler) error {
	if h.config.TLS != nil {
		return errPlainWithTLS
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return h.serveListener(l, handler, nil)
}

// ListenAndServeTLS is like ListenAndServe but serves TLS with Config.TLS, for wss://
// URLs. It returns an error if Config.TLS has no certificate or a certificate file
// cannot be loaded. If the files change later, new connections get the new certificate.
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

var (
	errNoCertificate = errors.New("websocket: Config.TLS has no certificate: set CertFile and KeyFile, or a TLSConfig with certificates")
	errPlainWithTLS  = errors.New("websocket: ListenAndServe serves without TLS, but Config.TLS is set: call ListenAndServeTLS or Serve, or remove Config.TLS")
)

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
	restrictTLS(config)
	choose := config.GetConfigForClient
	if choose != nil {
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if chosen != nil && needsRestriction(chosen) {
				chosen = chosen.Clone()
				restrictTLS(chosen)
			}
			return chosen, err
		}
	}
	if t.CertFile != "" || t.KeyFile != "" {
		if err := newCertificateFiles(h, t.CertFile, t.KeyFile).addTo(config); err != nil {
			return nil, err
		}
	}
	if !hasCertificate(config) {
		return nil, errNoCertificate
	}
	return config, nil
}

// validate returns an error if no server could be started with t. The files are read when
// a server starts.
func (t *TLSConfig) validate() error {
	switch {
	case t.CertFile == "" && t.KeyFile != "":
		return configError("TLS.CertFile", "is empty, but KeyFile is set: set both or neither")
	case t.CertFile != "" && t.KeyFile == "":
		return configError("TLS.KeyFile", "is empty, but CertFile is set: set both or neither")
	case t.CertFile == "" && (t.TLSConfig == nil || !hasCertificate(t.TLSConfig)):
		return errNoCertificate
	}
	return nil
}

// hasCertificate reports whether a server with config can have a certificate.
func hasCertificate(config *tls.Config) bool {
	return len(config.Certificates) > 0 || config.GetCertificate != nil || config.GetConfigForClient != nil
}

// restrictTLS makes config fit for handshakes, which need HTTP/1.1.
func restrictTLS(config *tls.Config) {
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	protocols := slices.DeleteFunc(slices.Clone(config.NextProtos), otherHTTP)
	if !slices.Contains(protocols, "http/1.1") {
		protocols = append(protocols, "http/1.1")
	}
	config.NextProtos = protocols
}

// needsRestriction reports whether restrictTLS would change config in a way that
// matters. A configuration without protocols needs none: the client then speaks
// HTTP/1.1.
func needsRestriction(config *tls.Config) bool {
	return config.MinVersion != 0 && config.MinVersion < tls.VersionTLS12 || slices.ContainsFunc(config.NextProtos, otherHTTP)
}

// otherHTTP reports whether an ALPN protocol is a version of HTTP that cannot carry a
// handshake. Protocols for other purposes, such as "acme-tls/1" of RFC 8737, stay.
func otherHTTP(protocol string) bool {
	switch protocol {
	case "h2", "h2c", "h3", "http/0.9", "http/1.0":
		return true
	}
	return strings.HasPrefix(protocol, "spdy/") || strings.HasPrefix(protocol, "h3-")
}

// warnings logs the messages of an http.Server, such as failed TLS handshakes.
type warnings struct{ hub *Hub }

func (w warnings) Write(b []byte) (int, error) {
	line := string(bytes.TrimSpace(b))
	w.hub.logLimited(kindOf(line), w.hub.logger.Warningf, "websocket: %s", line)
	return len(b), nil
}

// kindOf returns the part of a message of http.Server that is the same for all peers:
//
//	http: TLS handshake error from 192.0.2.1:40112: EOF -> http: TLS handshake error: EOF
func kindOf(line string) string {
	if event, peer, ok := strings.Cut(line, " from "); ok {
		_, reason, _ := strings.Cut(peer, ": ")
		line = event + ": " + reason
	}
	if i := strings.IndexAny(line, "0123456789[\"\n"); i >= 0 {
		line = line[:i]
	}
	return line
}

// serveListener serves on l until the hub has shut down. A nil config means no TLS.
func (h *Hub) serveListener(l net.Listener, handler http.Handler, config *tls.Config) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true) // other versions cannot carry a handshake
	server := &http.Server{
		Handler:           handler, // nil means http.DefaultServeMux
		TLSConfig:         config,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		Protocols:         &protocols,
		MaxHeaderBytes:    h.config.MaxHeaderBytes,
		ErrorLog:          log.New(warnings{h}, "", 0),
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
