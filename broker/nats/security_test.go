package nats_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/nats"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// startSecured starts a server with the given options on a free port.
func startSecured(t testing.TB, options *server.Options) *server.Server {
	t.Helper()
	options.Host, options.Port, options.NoSigs, options.NoLog = "127.0.0.1", freePort(t), true, true
	s, err := server.NewServer(options)
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	require.True(t, s.ReadyForConnections(patience))
	return s
}

func brokerOf(s *server.Server, connect ...natsgo.Option) websocket.Broker {
	return nats.New(nats.Options{URL: s.ClientURL(), MaxDelay: 200 * time.Millisecond, Connect: connect})
}

// accepted runs the suite with valid credentials.
func accepted(t *testing.T, name string, s *server.Server, connect ...natsgo.Option) {
	t.Run(name, func(t *testing.T) {
		brokertest.Run(t, brokertest.Engine{Broker: func() websocket.Broker { return brokerOf(s, connect...) }, Patience: patience})
	})
}

// refused runs a hub whose connections the server refuses. The hub must report the
// reason and must not reconnect in a loop.
func refused(t *testing.T, name, reason string, s *server.Server, connect ...natsgo.Option) {
	t.Run(name, func(t *testing.T) {
		before, err := s.Varz(nil)
		require.NoError(t, err)
		config := websocket.DefaultConfig
		config.Broker = brokerOf(s, connect...)
		hub := websocket.NewHub(nil, config)
		ran := make(chan error, 1)
		go func() { ran <- hub.Run(context.Background()) }() // ends with Shutdown
		t.Cleanup(func() {
			require.NoError(t, hub.Shutdown(context.Background()))
			require.NoError(t, <-ran)
		})
		require.Eventually(t, func() bool { return hub.Health().Broker == websocket.BrokerDown }, patience, time.Millisecond)
		require.Contains(t, hub.Health().Reason, reason)
		for range 10_000 {
			err := hub.PublishToChannelRawContext(context.Background(), "c", []byte("1"))
			require.ErrorIs(t, err, websocket.ErrBrokerUnavailable)
		}
		const others = 500 // connections of the test itself
		for range others {
			conn, err := net.Dial("tcp", s.Addr().String())
			require.NoError(t, err)
			_, err = conn.Read(make([]byte, 1))
			require.NoError(t, err)
			require.NoError(t, conn.Close())
		}
		after, err := s.Varz(nil)
		require.NoError(t, err)
		require.Less(t, after.TotalConnections-before.TotalConnections-others, uint64(others/10), "the broker reconnects in a loop")
	})
}

func TestCredentials(t *testing.T) {
	byUser := startSecured(t, &server.Options{Username: "hub", Password: "secret"})
	accepted(t, "User", byUser, natsgo.UserInfo("hub", "secret"))
	refused(t, "Wrong password", "Authorization Violation", byUser, natsgo.UserInfo("hub", "wrong"))
	refused(t, "No password", "Authorization Violation", byUser)
	only := &server.SubjectPermission{Allow: []string{"hub.>"}}
	confined := startSecured(t, &server.Options{Users: []*server.User{
		{Username: "hub", Password: "secret", Permissions: &server.Permissions{Publish: only, Subscribe: only}},
	}})
	accepted(t, "Only the prefix", confined, natsgo.UserInfo("hub", "secret"))
	byToken := startSecured(t, &server.Options{Authorization: "secret"})
	accepted(t, "Token", byToken, natsgo.Token("secret"))
	refused(t, "Wrong token", "Authorization Violation", byToken, natsgo.Token("wrong"))
}

func TestTLS(t *testing.T) {
	cert, roots := certificate(t)
	s := startSecured(t, &server.Options{TLS: true, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, TLSTimeout: patience.Seconds()})
	accepted(t, "Known certificate", s, natsgo.Secure(&tls.Config{RootCAs: roots}))
	refused(t, "Unknown certificate", "certificate", s, natsgo.Secure(&tls.Config{}))
}

// certificate makes a self-signed certificate for 127.0.0.1.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}
