// Package seal signs and encrypts messages in the hub's layout:
// [nonce 12 | AES-256-GCM([HMAC-SHA256 32 | data]) | tag 16]. The "joined" system
// seals with it, and the load generator opens with it.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
)

// The keys of the benchmark. They are public and protect nothing.
var (
	AESKey  = []byte("benchmark-key-benchmark-key-0000")
	HMACKey = []byte("benchmark-mac-key")
)

// ErrOpen is returned for a message that was not sealed with the given keys.
var ErrOpen = errors.New("seal: message cannot be opened")

// ClientKey returns the AES key of client number i.
func ClientKey(i int) []byte {
	k := append([]byte(nil), AESKey...)
	binary.BigEndian.PutUint32(k[len(k)-4:], uint32(i)+1)
	return k
}

// Keys seals and opens messages. Only one goroutine may use it at a time.
type Keys struct {
	aead  cipher.AEAD
	mac   hash.Hash
	plain []byte
	sum   []byte
}

// New returns Keys for a pair of keys. It fails if the AES key does not have 16,
// 24 or 32 bytes.
func New(aesKey, hmacKey []byte) (*Keys, error) {
	b, err := aes.NewCipher(aesKey)
	if err != nil {
		return nil, err
	}
	g, err := cipher.NewGCM(b)
	if err != nil {
		return nil, err
	}
	return &Keys{aead: g, mac: hmac.New(sha256.New, hmacKey)}, nil
}

// Seal signs and encrypts data and appends the result to dst.
func (k *Keys) Seal(dst, data []byte) []byte {
	k.mac.Reset()
	k.mac.Write(data)
	k.plain = append(k.mac.Sum(k.plain[:0]), data...)
	at := len(dst)
	dst = append(dst, make([]byte, k.aead.NonceSize())...)
	rand.Read(dst[at:]) // never fails
	return k.aead.Seal(dst, dst[at:], k.plain, nil)
}

// Open returns the data of a sealed message, or ErrOpen. The data is valid until
// the next call of a method.
func (k *Keys) Open(b []byte) ([]byte, error) {
	n := k.aead.NonceSize()
	if len(b) < n {
		return nil, ErrOpen
	}
	plain, err := k.aead.Open(k.plain[:0], b[:n], b[n:], nil)
	if err != nil || len(plain) < sha256.Size {
		return nil, ErrOpen
	}
	k.plain = plain
	k.mac.Reset()
	k.mac.Write(plain[sha256.Size:])
	k.sum = k.mac.Sum(k.sum[:0])
	if !hmac.Equal(k.sum, plain[:sha256.Size]) {
		return nil, ErrOpen
	}
	return plain[sha256.Size:], nil
}
