package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// hubServer is a hub with its HTTP servers.
type hubServer struct {
	name    string
	hub     *websocket.Hub
	plain   string // address without TLS
	secure  string // address with TLS
	topics  []*topic
	results *results

	server  *http.Server
	closing sync.WaitGroup
	ran     chan error
}

// topic is a channel or a room. It has only one publisher, so that its messages are
// numbered in the order of the hub's event log.
type topic struct {
	name string
	room bool
	next atomic.Int64 // number of the next message; all before it are published
}

func newHubServer(name string, config websocket.Config, topics int, res *results) (*hubServer, error) {
	certificate, err := newCertificate()
	if err != nil {
		return nil, err
	}
	config.TLS = &websocket.TLSConfig{TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}}
	config.OnDrop = res.drop
	s := &hubServer{name: name, results: res, ran: make(chan error, 1)}
	s.hub = websocket.NewHub(res, config)
	s.hub.SetCallbacks(res.connect, res.disconnect, res.message)
	for i := range topics {
		s.topics = append(s.topics, &topic{name: fmt.Sprint(name, "-", i), room: i%2 == 1})
	}
	var listeners [2]net.Listener
	for i := range listeners {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		listeners[i] = smallBuffers{l}
	}
	s.plain, s.secure = listeners[0].Addr().String(), listeners[1].Addr().String()
	s.server = &http.Server{Handler: s.hub.Handler(), ReadHeaderTimeout: 30 * time.Second, ErrorLog: res.stdLogger()}
	go func() { s.ran <- s.hub.Run(context.Background()) }() // returns after Shutdown
	s.closing.Go(func() { res.serveEnded(s.server.Serve(listeners[0])) })
	s.closing.Go(func() { res.serveEnded(s.hub.Serve(listeners[1], s.hub.Handler())) }) // returns after Shutdown
	return s, nil
}

// stop ends the hub and its servers.
func (s *hubServer) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := errors.Join(s.hub.Shutdown(ctx), <-s.ran, s.server.Close())
	s.closing.Wait()
	return err
}

// smallBuffers limits the kernel's write buffers, so that a backlog grows in the hub
// and not in the kernel.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(16 << 10) // the test works with the default size too
	}
	return c, err
}

func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().AddDate(0, 0, 1)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
