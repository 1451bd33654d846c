package websocket

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"
	"sync"
	"sync/atomic"
)

const (
	aesKeySize = 32
	nonceSize  = 12
	tagSize    = 16
	macSize    = sha256.Size
)

// SecurityConfig says how messages are sealed. A hub with a SecurityConfig seals
// every message that it sends and refuses every message that does not open.
//
// The literal values count: the zero value of SignThenEncrypt means
// encrypt-then-sign. NewSecurityConfig gives the usual order, sign-then-encrypt.
//
// With an AESKey, nobody without it can read a message, or make or alter one
// unnoticed. An HMACKey alone leaves messages readable and protects them from
// being made or altered. Both together add a second, independent key to the
// protection from alteration, which AES-GCM has of its own.
//
// What the format does not give:
//
//   - Protection from replay and reordering. A sealed message carries no sequence
//     number, direction, sender or receiver. Whoever can write to a connection can
//     send a recorded message again, later, in another order, back to where it
//     came from, or to others who hold the same keys. TLS keeps outsiders from
//     that; peers that share keys need something unique in the payload.
//   - A key without limit. Nonces are 96 random bits, and AES-GCM breaks when a
//     nonce comes twice under one key, so a key is good for about 2^32 messages
//     (NIST SP 800-38D, section 8.3). All who seal with it count together: a hub's
//     key spends that budget on all its clients and both directions. Prefer a key
//     for each client (Client.SetEncryptionKey, Client.SetHMACKey): each has a
//     budget of its own, no client can open or forge another's messages, and a
//     lost key exposes one client.
//   - Secrecy of a message's length and time, or of recorded messages once their
//     key is lost.
type SecurityConfig struct {
	// AESKey encrypts with AES-256-GCM. It must be 32 bytes, and random ones: a
	// password is not a key. Defaults to nil, no encryption.
	AESKey []byte
	// HMACKey signs with HMAC-SHA256. Any length but 0 is allowed; 32 random
	// bytes that differ from AESKey are a good choice. Defaults to nil, no signing.
	HMACKey []byte
	// SignThenEncrypt puts the signature inside the encryption; without it the
	// encrypted bytes are signed. Both peers must use the same order. With only
	// one key it has no effect. Defaults to false, encrypt-then-sign.
	SignThenEncrypt bool
}

// NewSecurityConfig returns a SecurityConfig that signs first and then encrypts.
// It copies the keys; a nil key leaves its step out.
func NewSecurityConfig(aesKey, hmacKey []byte) *SecurityConfig {
	return &SecurityConfig{
		AESKey:          slices.Clone(aesKey),
		HMACKey:         slices.Clone(hmacKey),
		SignThenEncrypt: true,
	}
}

func (c *SecurityConfig) validate() error {
	if c.AESKey == nil && c.HMACKey == nil {
		return fmt.Errorf("websocket: Security has neither AESKey nor HMACKey, and would leave messages in the clear: %w", ErrInvalidKey)
	}
	if c.AESKey != nil {
		if err := checkAESKey("Security.AESKey", c.AESKey); err != nil {
			return err
		}
	}
	if c.HMACKey != nil {
		return checkHMACKey("Security.HMACKey", c.HMACKey)
	}
	return nil
}

func checkAESKey(name string, key []byte) error {
	if len(key) != aesKeySize {
		return fmt.Errorf("websocket: %s is %d bytes, want %d: %w", name, len(key), aesKeySize, ErrInvalidKey)
	}
	return nil
}

func checkHMACKey(name string, key []byte) error {
	if len(key) == 0 {
		return fmt.Errorf("websocket: %s is empty, want at least 1 byte: %w", name, ErrInvalidKey)
	}
	return nil
}

// Encrypt returns plaintext encrypted with AES-256-GCM under a fresh random
// nonce, [nonce 12 | ciphertext | tag 16], in a new slice. A key that is not 32
// bytes is ErrInvalidKey. What SecurityConfig says about replay and about the
// limit of a key holds here too. Encrypt may be called from any goroutine.
func Encrypt(plaintext, key []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	out := make([]byte, nonceSize, nonceSize+len(plaintext)+tagSize)
	drawNonce(out)
	return aead.Seal(out, out, plaintext, nil), nil
}

// Decrypt returns the plaintext that Encrypt was given, in a new slice. A key
// that is not 32 bytes is ErrInvalidKey; bytes that are too short, were encrypted
// with another key or were altered are ErrDecrypt. Decrypt may be called from any
// goroutine.
func Decrypt(ciphertext, key []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	if len(ciphertext) < nonceSize+tagSize {
		return nil, ErrDecrypt
	}
	nonce, rest := ciphertext[:nonceSize], ciphertext[nonceSize:]
	plaintext, err := aead.Open(make([]byte, 0, len(rest)-tagSize), nonce, rest, nil)
	if err != nil {
		return nil, ErrDecrypt
	}
	return plaintext, nil
}

// Sign returns data with its HMAC-SHA256 in front, [HMAC 32 | data], in a new
// slice. With an empty key it returns nil: everyone can make such a signature,
// so it proves nothing. Sign may be called from any goroutine.
func Sign(data, key []byte) []byte {
	if len(key) == 0 {
		return nil
	}
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return append(h.Sum(make([]byte, 0, macSize+len(data))), data...)
}

// Verify returns a copy of the data that Sign was given. An empty key is
// ErrInvalidKey; bytes that are too short for a signature, were signed with
// another key or were altered are ErrSignature. Signatures are compared in
// constant time. Verify may be called from any goroutine.
func Verify(signed, key []byte) ([]byte, error) {
	if err := checkHMACKey("HMAC key", key); err != nil {
		return nil, err
	}
	if len(signed) < macSize {
		return nil, ErrSignature
	}
	h := hmac.New(sha256.New, key)
	h.Write(signed[macSize:])
	if !hmac.Equal(h.Sum(nil), signed[:macSize]) {
		return nil, ErrSignature
	}
	return append(make([]byte, 0, len(signed)-macSize), signed[macSize:]...), nil
}

// pipeline seals and opens messages with one set of keys. It never changes and
// may be used from any goroutine.
type pipeline struct {
	aead            cipher.AEAD // nil: no encryption
	macs            *macs       // nil: no signing
	signThenEncrypt bool
}

// newPipeline copies the keys. Without any it returns a nil pipeline: the caller
// sends plaintext.
func newPipeline(aesKey, hmacKey []byte, signThenEncrypt bool) (*pipeline, error) {
	if aesKey == nil && hmacKey == nil {
		return nil, nil
	}
	p := &pipeline{signThenEncrypt: signThenEncrypt}
	if aesKey != nil {
		aead, err := newAEAD(aesKey)
		if err != nil {
			return nil, err
		}
		p.aead = aead
	}
	if hmacKey != nil {
		if err := checkHMACKey("HMAC key", hmacKey); err != nil {
			return nil, err
		}
		p.macs = newMACs(hmacKey)
	}
	return p, nil
}

// overhead is how many bytes longer a message becomes when it is sealed.
func (p *pipeline) overhead() int {
	n := 0
	if p.aead != nil {
		n += nonceSize + tagSize
	}
	if p.macs != nil {
		n += macSize
	}
	return n
}

// appendSeal appends the sealed plaintext to dst. It allocates nothing if dst
// has room for len(plaintext)+overhead() more bytes. The plaintext is not
// changed, and must not overlap dst or its spare room.
func (p *pipeline) appendSeal(dst, plaintext []byte) []byte {
	dst, sealed := p.extend(dst, len(plaintext))
	if p.aead != nil {
		drawNonce(p.nonce(sealed))
	}
	p.seal(sealed, plaintext)
	return dst
}

// extend lengthens dst by a sealed message of n plaintext bytes, and returns
// dst and its new part, whose bytes are still arbitrary.
func (p *pipeline) extend(dst []byte, n int) (extended, sealed []byte) {
	n += p.overhead()
	start := len(dst)
	extended = slices.Grow(dst, n)[:start+n]
	return extended, extended[start:]
}

// nonce returns the part of an encrypted message that holds its nonce.
func (p *pipeline) nonce(sealed []byte) []byte {
	if p.macs != nil && !p.signThenEncrypt {
		sealed = sealed[macSize:]
	}
	return sealed[:nonceSize]
}

// seal fills sealed, which has its final length and its nonce already. Drawing
// the nonce is left to the caller because nobody but a test may choose one.
func (p *pipeline) seal(sealed, plaintext []byte) {
	switch {
	case p.aead == nil:
		signed := sealed[macSize:]
		copy(signed, plaintext)
		p.macs.sum(sealed[:0], signed)
	case p.macs == nil:
		nonce := sealed[:nonceSize]
		p.aead.Seal(nonce, nonce, plaintext, nil)
	case p.signThenEncrypt:
		nonce, signed := sealed[:nonceSize], sealed[nonceSize:len(sealed)-tagSize]
		copy(signed[macSize:], plaintext)
		p.macs.sum(signed[:0], signed[macSize:])
		p.aead.Seal(signed[:0], nonce, signed, nil)
	default:
		encrypted := sealed[macSize:]
		nonce := encrypted[:nonceSize]
		p.aead.Seal(nonce, nonce, plaintext, nil)
		p.macs.sum(sealed[:0], encrypted)
	}
}

// open verifies and decrypts in place and allocates nothing. The plaintext lies
// inside sealed, whose bytes are lost, on failure too.
func (p *pipeline) open(sealed []byte) ([]byte, error) {
	switch {
	case p.aead == nil:
		return p.verify(sealed)
	case p.macs == nil:
		return p.decrypt(sealed)
	case p.signThenEncrypt:
		signed, err := p.decrypt(sealed)
		if err != nil {
			return nil, err
		}
		return p.verify(signed)
	default:
		encrypted, err := p.verify(sealed)
		if err != nil {
			return nil, err
		}
		return p.decrypt(encrypted)
	}
}

func (p *pipeline) verify(signed []byte) ([]byte, error) {
	if len(signed) < macSize || !p.macs.match(signed[:macSize], signed[macSize:]) {
		return nil, ErrSignature
	}
	return slices.Clip(signed[macSize:]), nil
}

func (p *pipeline) decrypt(encrypted []byte) ([]byte, error) {
	if len(encrypted) < nonceSize+tagSize {
		return nil, ErrDecrypt
	}
	nonce, rest := encrypted[:nonceSize], encrypted[nonceSize:]
	plaintext, err := p.aead.Open(rest[:0], nonce, rest, nil)
	if err != nil {
		return nil, ErrDecrypt
	}
	return slices.Clip(plaintext), nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	if err := checkAESKey("AES key", key); err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("websocket: AES: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("websocket: AES-GCM: %w", err)
	}
	return aead, nil
}

// drawNonce asks crypto/rand for every nonce. Drawing many at once would save
// about 20 ns of 480, but nonces that wait in memory are used twice where the
// memory is: in a virtual machine that is cloned or restored from a snapshot.
func drawNonce(nonce []byte) {
	rand.Read(nonce) // never fails: it ends the process rather than return an error
}

// macs lends out HMAC states of one key, because making one costs three times
// as much as signing a short message. The slot serves a key that few goroutines
// use: a pool loses its content in every second garbage collection, which for
// thousands of clients with keys of their own is before the next message. The
// pool serves a key that many goroutines use at once.
type macs struct {
	slot atomic.Pointer[mac]
	pool sync.Pool // of *mac
}

// mac belongs to the one caller who took it, until it is given back.
type mac struct {
	hash hash.Hash // Reset restores the keyed state, which crypto/hmac keeps
	buf  [macSize]byte
}

func newMACs(key []byte) *macs {
	key = slices.Clone(key)
	return &macs{pool: sync.Pool{New: func() any {
		return &mac{hash: hmac.New(sha256.New, key)}
	}}}
}

func (m *macs) take() *mac {
	if s := m.slot.Load(); s != nil && m.slot.CompareAndSwap(s, nil) {
		return s
	}
	return m.pool.Get().(*mac)
}

func (m *macs) giveBack(s *mac) {
	if !m.slot.CompareAndSwap(nil, s) {
		m.pool.Put(s)
	}
}

// sum appends the HMAC of data to dst, which must have room for it.
func (m *macs) sum(dst, data []byte) {
	s := m.take()
	s.hash.Reset()
	s.hash.Write(data)
	s.hash.Sum(dst)
	m.giveBack(s)
}

// match compares in constant time.
func (m *macs) match(sum, data []byte) bool {
	s := m.take()
	s.hash.Reset()
	s.hash.Write(data)
	ok := hmac.Equal(s.hash.Sum(s.buf[:0]), sum)
	m.giveBack(s)
	return ok
}
