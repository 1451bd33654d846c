package websocket

import (
	"slices"

	"github.com/maoxiaoyue/hypgo-websocket/internal/seal"
)

// pipeline seals and opens messages with one set of keys.
type pipeline = seal.Pipeline

// SecurityConfig holds the keys that seal messages. A hub with at least one key
// seals every message that it sends. It closes a connection that sends a message
// which does not open, with ClosePolicyViolation.
//
// Without keys, a SecurityConfig only sets the order for clients that have keys of
// their own (Client.SetEncryptionKey, Client.SetHMACKey). Messages of other clients
// are not sealed, and NewHub logs a warning. A key that is empty but not nil, for
// example from an unset environment variable, is an error.
//
// The zero value of SignThenEncrypt means encrypt-then-sign. NewSecurityConfig
// returns the usual order, sign-then-encrypt.
//
// With an AESKey, only holders of the key can read messages, or make or alter
// them unnoticed. An HMACKey alone leaves messages readable and protects them
// from forgery and alteration. Both keys together add a second, independent key
// to the protection that AES-GCM gives by itself.
//
// The format does not give:
//
//   - Protection from replay and reordering. A sealed message contains no sequence
//     number, direction, sender or recipient. An attacker who can write to a
//     connection can send a recorded message again: later, in another order, back
//     to its sender, or to other holders of the same keys. TLS keeps outsiders
//     from doing so. Peers that share keys need something unique in the payload.
//   - A key without limit. Nonces are 96 random bits, and AES-GCM breaks when one
//     key uses a nonce twice, so a key is good for about 2^32 messages (NIST SP
//     800-38D, section 8.3). The limit applies to the sum over all users of a key:
//     all clients of a hub, in both directions, share the limit of the hub's key.
//     Prefer a key for each client (Client.SetEncryptionKey, Client.SetHMACKey):
//     each key has its own limit, clients cannot open or forge one another's
//     messages, and a lost key exposes one client.
//   - Secrecy of a message's length and time, or of recorded messages after their
//     key is lost.
type SecurityConfig struct {
	// AESKey encrypts with AES-256-GCM. It must be 32 random bytes: a password is
	// not a key. Defaults to nil, no encryption.
	AESKey []byte
	// HMACKey signs with HMAC-SHA256. Any length except 0 is allowed; 32 random
	// bytes that differ from AESKey are a good choice. Defaults to nil, no signing.
	HMACKey []byte
	// SignThenEncrypt signs the plaintext and encrypts the signature with it. If
	// false, the encrypted bytes are signed. Both peers must use the same order.
	// With only one key it has no effect. Defaults to false, encrypt-then-sign.
	SignThenEncrypt bool
}

// NewSecurityConfig returns a SecurityConfig that signs first and then encrypts.
// It copies the keys. A nil key leaves its step out. NewHub and Config.Validate
// check the keys; NewSecurityConfig does not.
func NewSecurityConfig(aesKey, hmacKey []byte) *SecurityConfig {
	return &SecurityConfig{
		AESKey:          slices.Clone(aesKey),
		HMACKey:         slices.Clone(hmacKey),
		SignThenEncrypt: true,
	}
}

// hasKeys reports whether c seals anything.
func (c *SecurityConfig) hasKeys() bool { return c.AESKey != nil || c.HMACKey != nil }

func (c *SecurityConfig) validate() error {
	if c.AESKey != nil {
		if err := seal.CheckAESKey("Config.Security.AESKey", c.AESKey); err != nil {
			return err
		}
	}
	if c.HMACKey != nil {
		return seal.CheckHMACKey("Config.Security.HMACKey", c.HMACKey)
	}
	return nil
}

// newPipeline returns the pipeline of a valid c.
func (c *SecurityConfig) newPipeline() (*pipeline, error) {
	return seal.New(c.AESKey, c.HMACKey, c.SignThenEncrypt)
}

// Encrypt encrypts plaintext with AES-256-GCM under a new random nonce. It
// returns [nonce 12 | ciphertext | tag 16] in a new slice, or ErrInvalidKey if
// key is not 32 bytes. The limits that SecurityConfig lists for replay and for
// messages per key apply. Encrypt may be called from any goroutine.
func Encrypt(plaintext, key []byte) ([]byte, error) {
	return seal.Encrypt(plaintext, key)
}

// Decrypt decrypts the result of Encrypt and returns the plaintext in a new
// slice. It returns ErrInvalidKey if key is not 32 bytes, and ErrDecrypt if
// ciphertext is too short, was encrypted with another key or was altered. Decrypt
// may be called from any goroutine.
func Decrypt(ciphertext, key []byte) ([]byte, error) {
	return seal.Decrypt(ciphertext, key)
}

// Sign returns data with its HMAC-SHA256 in front, [HMAC 32 | data], in a new
// slice. It returns nil if key is empty: anyone can make such a signature, so it
// proves nothing. Sign may be called from any goroutine.
func Sign(data, key []byte) []byte {
	return seal.Sign(data, key)
}

// Verify verifies the result of Sign and returns a copy of the data. It returns
// ErrInvalidKey if key is empty, and ErrSignature if signed is too short, was
// signed with another key or was altered. It compares signatures in constant
// time. Verify may be called from any goroutine.
func Verify(signed, key []byte) ([]byte, error) {
	return seal.Verify(signed, key)
}
