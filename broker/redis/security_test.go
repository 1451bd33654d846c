package redis_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func runHub(t *testing.T, b websocket.Broker) *websocket.Hub {
	t.Helper()
	config := websocket.DefaultConfig
	config.Broker = b
	hub := websocket.NewHub(nil, config)
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(context.Background()) }() // ends with Shutdown
	t.Cleanup(func() {
		require.NoError(t, hub.Shutdown(context.Background()))
		require.NoError(t, <-ran)
	})
	return hub
}

// counting returns connect with a dialer that counts its calls.
func counting(connect goredis.UniversalOptions, dials *atomic.Int64) goredis.UniversalOptions {
	connect.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	return connect
}

func TestPassword(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		e := newEngine(t, server, "--requirepass", "right", "--user", "hub", "on", ">secret", "resetchannels", "&hub:*", "~hub:*", "-@all", "+@pubsub", "+@connection",
			"+eval", "+evalsha", "+get", "+set", "+unlink", "+pexpire", "+xadd", "+xtrim", "+xrange", "+xrevrange", "+info", "+time")
		e.password = "right"
		e.start()
		t.Cleanup(e.stop)
		for name, connect := range map[string]goredis.UniversalOptions{
			"Password": {Password: "right"},
			"User":     {Username: "hub", Password: "secret"},
			"RESP2":    {Password: "right", Protocol: 2},
		} {
			connect.Addrs = []string{e.addr()}
			t.Run(name, func(t *testing.T) {
				brokertest.Run(t, brokertest.Engine{Broker: func() websocket.Broker { return open(connect) }, Patience: patience})
			})
		}
	})
}

func TestWrongPassword(t *testing.T) {
	for _, tt := range []struct {
		name    string
		args    []string
		connect goredis.UniversalOptions
		reason  string
		mend    []any
	}{
		{"Wrong", nil, goredis.UniversalOptions{Password: "wrong"}, "WRONGPASS", []any{"CONFIG", "SET", "requirepass", "wrong"}},
		{"Missing", nil, goredis.UniversalOptions{}, "NOAUTH", []any{"CONFIG", "SET", "requirepass", ""}},
		{
			"User without the channels", []string{"--user", "hub", "on", ">secret", "resetchannels", "&other:*", "+@all"},
			goredis.UniversalOptions{Username: "hub", Password: "secret"}, "NOPERM", []any{"ACL", "SETUSER", "hub", "&hub:*"},
		},
		{"Cluster", []string{"--cluster-enabled", "yes"}, goredis.UniversalOptions{Password: "wrong", IsClusterMode: true}, "WRONGPASS", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onEach(t, func(t *testing.T, server string) {
				args := append([]string{"--requirepass", "right"}, tt.args...)
				if tt.name == "Cluster" {
					args = append(args, "--cluster-port", freePortText(t))
				}
				e := newEngine(t, server, args...)
				e.password = "right"
				e.start()
				t.Cleanup(e.stop)
				var dials atomic.Int64
				tt.connect.Addrs = []string{e.addr()}
				hub := runHub(t, open(counting(tt.connect, &dials)))
				eventually(t, "the hub reports that the broker is down", func() bool { return hub.Health().Broker == websocket.BrokerDown })
				require.Contains(t, hub.Health().Reason, tt.reason)
				for range 10_000 {
					err := hub.PublishToChannelRawContext(context.Background(), "c", []byte("1"))
					require.ErrorIs(t, err, websocket.ErrBrokerUnavailable)
				}
				const pings = 2000 // a ping takes about as long as a connection attempt
				for range pings {
					require.NoError(t, e.client.Ping(context.Background()).Err())
				}
				require.Less(t, dials.Load(), int64(pings/20), "the broker reconnects in a loop")
				if tt.mend != nil {
					require.NoError(t, e.client.Do(context.Background(), tt.mend...).Err())
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					require.NoError(t, hub.BrokerReady(ctx))
					require.NoError(t, hub.PublishToChannelRawContext(ctx, "c", []byte("1")))
				}
			})
		})
	}
}

// certificate makes a self-signed certificate for 127.0.0.1.
func certificate(t testing.TB, dir string) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	require.NoError(t, os.WriteFile(certFile, certPEM, 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	roots = x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(certPEM))
	return certFile, keyFile, roots
}

func TestTLS(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		e := newEngine(t, server)
		cert, key, roots := certificate(t, e.dir)
		e.args = []string{"--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no", "--requirepass", "right"}
		e.password, e.tlsConfig = "right", &tls.Config{RootCAs: roots}
		e.start()
		t.Cleanup(e.stop)
		connect := goredis.UniversalOptions{Addrs: []string{e.addr()}, Password: "right", TLSConfig: e.tlsConfig}
		brokertest.Run(t, brokertest.Engine{
			Broker:   func() websocket.Broker { return open(connect) },
			Stop:     e.stop,
			Start:    e.start,
			Pause:    e.pause,
			Resume:   e.resume,
			Patience: patience,
		})
		t.Run("Unknown certificate", func(t *testing.T) {
			connect := connect
			connect.TLSConfig = &tls.Config{}
			hub := runHub(t, open(connect))
			eventually(t, "the hub reports that the broker is down", func() bool { return hub.Health().Broker == websocket.BrokerDown })
			require.Contains(t, hub.Health().Reason, "certificate")
		})
	})
}
