package websocket_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/seal/sealtest"
)

func FuzzDecrypt(f *testing.F) {
	for _, v := range sealtest.Vectors(f, "testdata/hypgo-wire.json") {
		f.Add(v.Wire, v.AESKey)
		f.Add(v.Plaintext, v.AESKey)
	}
	f.Add([]byte{}, sealtest.AESKey)
	f.Add(make([]byte, 28), sealtest.AESKey)
	f.Fuzz(func(t *testing.T, data, key []byte) {
		before := slices.Clone(data)
		plaintext, err := websocket.Decrypt(data, key)
		require.True(t, bytes.Equal(before, data))
		if len(key) != 32 {
			require.ErrorIs(t, err, websocket.ErrInvalidKey)
			return
		}
		if err == nil {
			require.Equal(t, data, sealtest.Encrypt(t, plaintext, key, data[:12]))
		} else {
			require.Equal(t, websocket.ErrDecrypt, err)
		}

		encrypted, err := websocket.Encrypt(data, key)
		require.NoError(t, err)
		decrypted, err := websocket.Decrypt(encrypted, key)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, decrypted))
	})
}

func FuzzVerify(f *testing.F) {
	for _, v := range sealtest.Vectors(f, "testdata/hypgo-wire.json") {
		f.Add(v.Wire, v.HMACKey)
		f.Add(v.Plaintext, v.HMACKey)
	}
	f.Add([]byte{}, sealtest.HMACKey)
	f.Add(make([]byte, 32), sealtest.HMACKey)
	f.Fuzz(func(t *testing.T, data, key []byte) {
		before := slices.Clone(data)
		verified, err := websocket.Verify(data, key)
		require.True(t, bytes.Equal(before, data))
		if len(key) == 0 {
			require.ErrorIs(t, err, websocket.ErrInvalidKey)
			require.Nil(t, websocket.Sign(data, key))
			return
		}
		if err == nil {
			require.Equal(t, data, sealtest.Sign(verified, key))
		} else {
			require.Equal(t, websocket.ErrSignature, err)
		}

		verified, err = websocket.Verify(websocket.Sign(data, key), key)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, verified))
	})
}
