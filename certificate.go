package websocket

import (
	"crypto/tls"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// certificateInterval is the minimum time between two checks for renewed certificate
// files.
const certificateInterval = time.Second

// certificateFiles is a certificate from files. Handshakes check whether the files have
// changed, so that a renewed certificate needs no restart.
type certificateFiles struct {
	hub               *Hub
	certFile, keyFile string

	config atomic.Pointer[tls.Config] // with the newest pair

	mu        sync.Mutex // guards the fields below
	checkedAt int64      // hub clock
	cert, key os.FileInfo
	failure   string // the last error that was logged, until a pair loads
}

func newCertificateFiles(h *Hub, certFile, keyFile string) *certificateFiles {
	return &certificateFiles{hub: h, certFile: certFile, keyFile: keyFile, checkedAt: h.clock()}
}

// addTo loads the files and makes config use them, behind its own certificates.
func (f *certificateFiles) addTo(config *tls.Config) error {
	pair, err := f.load()
	if err != nil {
		return fmt.Errorf("websocket: %w", err)
	}
	choose := config.GetConfigForClient
	others := config.Certificates
	f.config.Store(withCertificate(config, others, pair))
	config.Certificates = f.config.Load().Certificates
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if choose != nil {
			if chosen, err := choose(hello); chosen != nil || err != nil {
				return chosen, err
			}
		}
		f.check(others)
		return f.config.Load(), nil
	}
	return nil
}

// withCertificate returns a copy of config with one certificate more than others.
func withCertificate(config *tls.Config, others []tls.Certificate, pair tls.Certificate) *tls.Config {
	config = config.Clone()
	config.Certificates = append(slices.Clip(others), pair)
	return config
}

// load loads the files and remembers their state from before that. Its errors name the
// field of Config.
func (f *certificateFiles) load() (tls.Certificate, error) {
	cert, err := os.Stat(f.certFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("Config.TLS.CertFile: %w", err)
	}
	key, err := os.Stat(f.keyFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("Config.TLS.KeyFile: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("Config.TLS: certificate %s with key %s: %w", f.certFile, f.keyFile, err)
	}
	f.cert, f.key = cert, key
	return pair, nil
}

// check loads the files again if they have changed. While they cannot be loaded, the
// older pair stays in use.
func (f *certificateFiles) check(others []tls.Certificate) {
	if !f.mu.TryLock() {
		return // another handshake checks
	}
	defer f.mu.Unlock()
	now := f.hub.clock()
	if now-f.checkedAt < int64(certificateInterval) {
		return
	}
	f.checkedAt = now
	if f.failure == "" && unchanged(f.certFile, f.cert) && unchanged(f.keyFile, f.key) {
		return
	}
	pair, err := f.load()
	if err != nil {
		if text := err.Error(); text != f.failure {
			f.failure = text
			f.hub.logger.Errorf("websocket: the renewed certificate does not load, so the old one stays in use: %v", err)
		}
		return
	}
	f.failure = ""
	f.config.Store(withCertificate(f.config.Load(), others, pair))
	f.hub.logger.Infof("websocket: loaded the certificate files %s and %s again", f.certFile, f.keyFile)
}

// unchanged reports whether a file is the same as before, at the end of all links.
func unchanged(name string, before os.FileInfo) bool {
	now, err := os.Stat(name)
	return err == nil && os.SameFile(before, now) && before.ModTime().Equal(now.ModTime()) && before.Size() == now.Size()
}
