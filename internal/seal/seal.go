// Package seal encrypts and signs messages with AES-256-GCM and HMAC-SHA256.
//
// A sealed message has one of four forms. Numbers are sizes in bytes:
//
//	AES key only       [nonce 12 | ciphertext | tag 16]
//	HMAC key only      [HMAC 32 | plaintext]
//	sign-then-encrypt  [nonce 12 | ciphertext of [HMAC 32 | plaintext] | tag 16]
//	encrypt-then-sign  [HMAC 32 | nonce 12 | ciphertext | tag 16]
//
// Pipeline seals and opens whole messages. Encrypt, Decrypt, Sign and Verify are
// its single steps.
package seal

import (
	"crypto/cipher"
	"slices"
)

// Pipeline seals and opens messages with one set of keys. It is immutable and
// safe for concurrent use.
type Pipeline struct {
	aead            cipher.AEAD // nil: no encryption
	macs            *macPool    // nil: no signing
	signThenEncrypt bool
}

// New returns a Pipeline with copies of the keys. A nil key leaves its step out.
// Without any key New returns a nil Pipeline and no error: messages are then not
// sealed. The only error is ErrInvalidKey.
func New(aesKey, hmacKey []byte, signThenEncrypt bool) (*Pipeline, error) {
	if aesKey == nil && hmacKey == nil {
		return nil, nil
	}
	p := &Pipeline{signThenEncrypt: signThenEncrypt}
	if aesKey != nil {
		aead, err := newAEAD(aesKey)
		if err != nil {
			return nil, err
		}
		p.aead = aead
	}
	if hmacKey != nil {
		if err := CheckHMACKey("HMAC key", hmacKey); err != nil {
			return nil, err
		}
		p.macs = newMACPool(hmacKey)
	}
	return p, nil
}

// Overhead returns the number of bytes that sealing adds to a message.
func (p *Pipeline) Overhead() int {
	n := 0
	if p.aead != nil {
		n += nonceSize + tagSize
	}
	if p.macs != nil {
		n += macSize
	}
	return n
}

// AppendSeal appends the sealed plaintext to dst and returns the extended slice.
// It allocates nothing if dst has room for len(plaintext)+Overhead() more bytes.
// The plaintext is not changed. It must not overlap dst or the capacity after
// dst.
func (p *Pipeline) AppendSeal(dst, plaintext []byte) []byte {
	dst, sealed := p.extend(dst, len(plaintext))
	if p.aead != nil {
		drawNonce(p.nonce(sealed))
	}
	p.seal(sealed, plaintext)
	return dst
}

// extend lengthens dst by the size of a sealed message of n plaintext bytes. It
// returns dst and its new part, whose bytes have no defined value yet.
func (p *Pipeline) extend(dst []byte, n int) (extended, sealed []byte) {
	n += p.Overhead()
	start := len(dst)
	extended = slices.Grow(dst, n)[:start+n]
	return extended, extended[start:]
}

// nonce returns the part of an encrypted message that holds its nonce.
func (p *Pipeline) nonce(sealed []byte) []byte {
	if p.macs != nil && !p.signThenEncrypt {
		sealed = sealed[macSize:]
	}
	return sealed[:nonceSize]
}

// seal fills sealed, which has its final length and already contains its nonce.
// The caller draws the nonce, so that tests can choose one.
func (p *Pipeline) seal(sealed, plaintext []byte) {
	switch {
	case p.aead == nil:
		p.sign(sealed, plaintext)
	case p.macs == nil:
		encrypt(p.aead, sealed, plaintext)
	case p.signThenEncrypt:
		signed := sealed[nonceSize : len(sealed)-tagSize]
		p.sign(signed, plaintext)
		encrypt(p.aead, sealed, signed)
	default:
		encrypted := sealed[macSize:]
		encrypt(p.aead, encrypted, plaintext)
		p.sign(sealed, encrypted)
	}
}

// sign fills signed with data and its HMAC. data may already be in its place.
func (p *Pipeline) sign(signed, data []byte) {
	copy(signed[macSize:], data)
	m := p.macs.take()
	m.sum(signed[:0], signed[macSize:])
	p.macs.recycle(m)
}

// Open verifies and decrypts a sealed message in place and returns the plaintext,
// which is a part of sealed. It allocates nothing. It overwrites sealed even if
// it fails. Errors are ErrDecrypt and ErrSignature.
func (p *Pipeline) Open(sealed []byte) ([]byte, error) {
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

func (p *Pipeline) verify(signed []byte) ([]byte, error) {
	m := p.macs.take()
	data, err := m.verify(signed)
	p.macs.recycle(m)
	return slices.Clip(data), err
}

func (p *Pipeline) decrypt(encrypted []byte) ([]byte, error) {
	plaintext, err := decrypt(p.aead, encrypted, true)
	return slices.Clip(plaintext), err
}
