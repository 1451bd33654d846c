package websocket_test

import (
	"crypto/tls"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// TestRenewedCertificate replaces the certificate files of a running server.
func TestRenewedCertificate(t *testing.T) {
	dir := t.TempDir()
	serial := time.Now() // each renewal has later file times, however coarse those are
	renew := func() certificate {
		c := makeCertificate(t, dir)
		serial = serial.Add(time.Minute)
		require.NoError(t, os.Chtimes(c.certFile, serial, serial))
		require.NoError(t, os.Chtimes(c.keyFile, serial, serial))
		return c
	}
	files := renew()
	for name, also := range map[string]*tls.Config{
		"files only":     nil,
		"GetCertificate": {GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }},
		"GetConfigForClient": {GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return nil, nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := renew()
				s := serveTLS(t, websocket.TLSConfig{CertFile: files.certFile, KeyFile: files.keyFile, TLSConfig: also})
				synctest.Wait()
				requireCertificate := func(want certificate) {
					t.Helper()
					state, err := s.handshake("http/1.1")
					require.NoError(t, err)
					require.Equal(t, want.pair.Certificate[0], state.PeerCertificates[0].Raw)
					require.Equal(t, "http/1.1", state.NegotiatedProtocol)
				}
				requireCertificate(first)
				second := renew()
				requireCertificate(first) // checked less than a second ago
				time.Sleep(time.Second)
				requireCertificate(second)
				require.Len(t, s.logs.matching("info", "certificate"), 1)

				require.NoError(t, os.WriteFile(files.keyFile, []byte("half a key"), 0o600))
				for range 3 {
					time.Sleep(time.Second)
					requireCertificate(second)
				}
				require.NoError(t, os.Remove(files.certFile))
				for range 3 {
					time.Sleep(time.Second)
					requireCertificate(second)
				}
				require.Len(t, s.logs.matching("error", "renewed certificate"), 2, "one line for each reason")
				third := renew()
				time.Sleep(time.Second)
				requireCertificate(third)
				require.Len(t, s.logs.matching("info", "certificate"), 2)
				s.stop()
			})
		})
	}
}
