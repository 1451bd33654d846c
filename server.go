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

// Time limits of the servers that the hub starts, against clients that hold
// connections open without asking for anything.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
)

// ListenAndServe serves handler on a TCP address until the hub stops, and then
// returns http.ErrServerClosed; requests under way have a moment to end. A nil
// handler means the hub's own. Run must be called beside it.
func (h *Hub) ListenAndServe(addr string, handler http.Handler) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return h.serveListener(l, handler, nil)
}

// ListenAndServeTLS is ListenAndServe with Config.TLS, for wss:// URLs. A
// tls.Config given there is cloned, and TLS 1.2 is the least that is spoken.
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

// Serve is ListenAndServe on a listener of the caller's, which it closes. With
// Config.TLS set it serves TLS on it.
func (h *Hub) Serve(l net.Listener, handler http.Handler) error {
	var config *tls.Config
	if h.config.TLS != nil {
		var err error
		if config, err = h.tlsConfig(); err != nil {
			_ = l.Close() // the error that matters is returned
			return err
		}
	}
	return h.serveListener(l, handler, config)
}

var errNoCertificate = errors.New("websocket: Config.TLS has no certificate: set CertFile and KeyFile, or a TLSConfig with certificates")

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
	config.NextProtos = []string{"http/1.1"} // an upgrade needs HTTP/1.1
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

// warnings passes on what net/http has to say, such as failed TLS handshakes.
type warnings struct{ logger Logger }

func (w warnings) Write(b []byte) (int, error) {
	w.logger.Warningf("websocket: %s", bytes.TrimSpace(b))
	return len(b), nil
}

func (h *Hub) serveListener(l net.Listener, handler http.Handler, config *tls.Config) error {
	if handler == nil {
		handler = h.Handler()
	}
	server := &http.Server{
		Handler:           handler,
		TLSConfig:         config,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          log.New(warnings{h.logger}, "", 0),
	}
	served := make(chan struct{}) // closed below, received by the closer
	closed := make(chan struct{}) // closed by the closer, received below
	go func() {                   // ends with Serve or when the hub has stopped
		defer close(closed)
		select {
		case <-h.done:
			ctx, cancel := context.WithTimeout(context.Background(), h.config.DrainTimeout)
			defer cancel()
			_ = server.Shutdown(ctx) // what is left is closed next
		case <-served:
		}
		_ = server.Close() // connections that are not the hub's
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
