package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
)

// Sizes in bytes.
const (
	aesKeySize = 32
	nonceSize  = 12
	tagSize    = 16
	macSize    = sha256.Size
)

// The root package exports these errors under the same names.
var (
	// ErrInvalidKey reports an AES key that is not 32 bytes or an empty HMAC key.
	ErrInvalidKey = errors.New("websocket: invalid key")
	// ErrDecrypt reports bytes that are too short, were encrypted with another
	// key or were altered.
	ErrDecrypt = errors.New("websocket: message cannot be decrypted")
	// ErrSignature reports bytes that are too short for a signature or whose
	// signature does not match.
	ErrSignature = errors.New("websocket: signature does not match")
)

// CheckAESKey returns an error that wraps ErrInvalidKey if key is not 32 bytes.
// The error calls the key name.
func CheckAESKey(name string, key []byte) error {
	if len(key) != aesKeySize {
		return fmt.Errorf("%w: %s is %d bytes, want %d", ErrInvalidKey, name, len(key), aesKeySize)
	}
	return nil
}

// CheckHMACKey returns an error that wraps ErrInvalidKey if key is empty. The
// error calls the key name.
func CheckHMACKey(name string, key []byte) error {
	if len(key) == 0 {
		return fmt.Errorf("%w: %s is empty, want at least 1 byte", ErrInvalidKey, name)
	}
	return nil
}

// Encrypt returns plaintext encrypted under a random nonce,
// [nonce 12 | ciphertext | tag 16], in a new slice. The only error is
// ErrInvalidKey.
func Encrypt(plaintext, key []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	encrypted := make([]byte, nonceSize+len(plaintext)+tagSize)
	drawNonce(encrypted[:nonceSize])
	encrypt(aead, encrypted, plaintext)
	return encrypted, nil
}

// Decrypt returns the plaintext of an encrypted message in a new slice. Errors
// are ErrInvalidKey and ErrDecrypt.
func Decrypt(encrypted, key []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	return decrypt(aead, encrypted, false)
}

// Sign returns [HMAC 32 | data] in a new slice, or nil if key is empty.
func Sign(data, key []byte) []byte {
	if len(key) == 0 {
		return nil
	}
	m := mac{hash: hmac.New(sha256.New, key)}
	return append(m.sum(make([]byte, 0, macSize+len(data)), data), data...)
}

// Verify returns a copy of the data of a signed message. Errors are
// ErrInvalidKey and ErrSignature.
func Verify(signed, key []byte) ([]byte, error) {
	if err := CheckHMACKey("HMAC key", key); err != nil {
		return nil, err
	}
	m := mac{hash: hmac.New(sha256.New, key)}
	data, err := m.verify(signed)
	if err != nil {
		return nil, err
	}
	return append(make([]byte, 0, len(data)), data...), nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	if err := CheckAESKey("AES key", key); err != nil {
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

// drawNonce calls crypto/rand for every nonce. Drawing many nonces at once would
// save about 20 ns of 480, but nonces kept in memory are used twice if a virtual
// machine is cloned or restored from a snapshot.
func drawNonce(nonce []byte) {
	rand.Read(nonce) // never fails: it ends the process instead of returning an error
}

// encrypt encrypts plaintext into encrypted, which has its final length and
// already contains its nonce. plaintext may lie in encrypted, right after the
// nonce.
func encrypt(aead cipher.AEAD, encrypted, plaintext []byte) {
	nonce := encrypted[:nonceSize]
	aead.Seal(encrypted[nonceSize:nonceSize], nonce, plaintext, nil)
}

// decrypt returns the plaintext in encrypted's own memory if inPlace is set and
// in a new slice otherwise.
func decrypt(aead cipher.AEAD, encrypted []byte, inPlace bool) ([]byte, error) {
	if len(encrypted) < nonceSize+tagSize {
		return nil, ErrDecrypt
	}
	nonce, ciphertext := encrypted[:nonceSize], encrypted[nonceSize:]
	dst := ciphertext[:0]
	if !inPlace {
		dst = make([]byte, 0, len(ciphertext)-tagSize)
	}
	plaintext, err := aead.Open(dst, nonce, ciphertext, nil)
	if err != nil {
		return nil, ErrDecrypt
	}
	return plaintext, nil
}
