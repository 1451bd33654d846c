// Package sealtest is a second, plain implementation of the sealed forms, which
// tests compare package seal with.
package sealtest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Keys for tests.
var (
	AESKey  = []byte("an AES-256 key is 32 bytes long!")
	HMACKey = []byte("an HMAC key has any length")
)

// Encrypt returns plaintext encrypted with AES-256-GCM under nonce.
func Encrypt(tb testing.TB, plaintext, key, nonce []byte) []byte {
	block, err := aes.NewCipher(key)
	require.NoError(tb, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(tb, err)
	return slices.Concat(nonce, aead.Seal(nil, nonce, plaintext, nil))
}

// Sign returns data with its HMAC-SHA256 in front.
func Sign(data, key []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return slices.Concat(h.Sum(nil), data)
}

// Order is a set of keys and the order of the steps.
type Order struct {
	Name            string
	AESKey, HMACKey []byte // nil: the step is left out
	SignThenEncrypt bool
}

// Orders returns the four forms of sealed messages.
func Orders() []Order {
	return []Order{
		{"aes-only", AESKey, nil, false},
		{"hmac-only", nil, HMACKey, false},
		{"sign-then-encrypt", AESKey, HMACKey, true},
		{"encrypt-then-sign", AESKey, HMACKey, false},
	}
}

// Seal returns the sealed plaintext. Without an AESKey the nonce is not used.
func (o Order) Seal(tb testing.TB, plaintext, nonce []byte) []byte {
	switch {
	case o.HMACKey == nil:
		return Encrypt(tb, plaintext, o.AESKey, nonce)
	case o.AESKey == nil:
		return Sign(plaintext, o.HMACKey)
	case o.SignThenEncrypt:
		return Encrypt(tb, Sign(plaintext, o.HMACKey), o.AESKey, nonce)
	default:
		return Sign(Encrypt(tb, plaintext, o.AESKey, nonce), o.HMACKey)
	}
}

// Nonce returns the nonce of a sealed message, or nil if it has none.
func (o Order) Nonce(sealed []byte) []byte {
	switch {
	case o.AESKey == nil:
		return nil
	case o.HMACKey == nil || o.SignThenEncrypt:
		return sealed[:12]
	default:
		return sealed[32:44]
	}
}

// Vector is a message that HypGo sealed.
type Vector struct {
	Order
	Plaintext, Wire []byte
}

// Vectors reads the vectors from the repository's testdata/hypgo-wire.json, whose
// path the caller gives.
func Vectors(tb testing.TB, path string) []Vector {
	raw, err := os.ReadFile(path)
	require.NoError(tb, err)
	var file struct {
		Cases []struct {
			Kind         string `json:"kind"`
			Name         string `json:"name"`
			Order        string `json:"order"`
			AESKeyHex    string `json:"aes_key_hex"`
			HMACKeyHex   string `json:"hmac_key_hex"`
			PlaintextHex string `json:"plaintext_hex"`
			WireHex      string `json:"wire_hex"`
		} `json:"cases"`
	}
	require.NoError(tb, json.Unmarshal(raw, &file))
	unhex := func(s string) []byte {
		if s == "" {
			return nil
		}
		b, err := hex.DecodeString(s)
		require.NoError(tb, err)
		return b
	}
	var vectors []Vector
	for _, c := range file.Cases {
		if c.Kind != "security" {
			continue
		}
		vectors = append(vectors, Vector{
			Order: Order{
				Name:            c.Name,
				AESKey:          unhex(c.AESKeyHex),
				HMACKey:         unhex(c.HMACKeyHex),
				SignThenEncrypt: c.Order == "sign-then-encrypt",
			},
			Plaintext: unhex(c.PlaintextHex),
			Wire:      unhex(c.WireHex),
		})
	}
	return vectors
}
