package websocket_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
)

func FuzzDecrypt(f *testing.F) {
	for _, v := range securityVectors(f) {
		f.Add(v.wire, v.aesKey)
		f.Add(v.plaintext, v.aesKey)
	}
	f.Add([]byte{}, testAESKey)
	f.Add(make([]byte, 28), testAESKey)
	f.Fuzz(func(t *testing.T, data, key []byte) {
		before := slices.Clone(data)
		plaintext, err := websocket.Decrypt(data, key)
		require.True(t, bytes.Equal(before, data))
		if len(key) != 32 {
			require.ErrorIs(t, err, websocket.ErrInvalidKey)
			return
		}
		if err == nil {
			require.Equal(t, data, oracleEncrypt(t, plaintext, key, data[:12]))
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
	for _, v := range securityVectors(f) {
		f.Add(v.wire, v.hmacKey)
		f.Add(v.plaintext, v.hmacKey)
	}
	f.Add([]byte{}, testHMACKey)
	f.Add(make([]byte, 32), testHMACKey)
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
			require.Equal(t, data, oracleSign(verified, key))
		} else {
			require.Equal(t, websocket.ErrSignature, err)
		}

		verified, err = websocket.Verify(websocket.Sign(data, key), key)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, verified))
	})
}

func FuzzPipelineOpen(f *testing.F) {
	for _, v := range securityVectors(f) {
		f.Add(v.wire, v.aesKey, v.hmacKey, v.signThenEncrypt)
		f.Add(v.plaintext, v.aesKey, v.hmacKey, v.signThenEncrypt)
	}
	for _, o := range securityOrders() {
		f.Add([]byte{}, o.aesKey, o.hmacKey, o.signThenEncrypt)
		f.Add(make([]byte, o.overhead), o.aesKey, o.hmacKey, o.signThenEncrypt)
	}
	f.Fuzz(func(t *testing.T, data, aesKey, hmacKey []byte, signThenEncrypt bool) {
		if len(hmacKey) == 0 {
			hmacKey = nil
		}
		if len(aesKey) == 0 && hmacKey != nil {
			aesKey = nil
		} else {
			aesKey = append(slices.Clip(aesKey), make([]byte, 32)...)[:32]
		}
		p, err := websocket.NewSecurityPipeline(aesKey, hmacKey, signThenEncrypt)
		require.NoError(t, err)

		opened, err := p.Open(slices.Clone(data))
		if err == nil {
			require.Equal(t, data, p.SealWithNonce(opened, p.Nonce(data)))
		} else {
			require.Contains(t, []error{websocket.ErrDecrypt, websocket.ErrSignature}, err)
		}

		before := slices.Clone(data)
		sealed := p.AppendSeal([]byte("header"), data)
		require.True(t, bytes.Equal(before, data))
		require.Len(t, sealed, len("header")+len(data)+p.Overhead())
		require.Equal(t, "header", string(sealed[:6]))
		opened, err = p.Open(sealed[6:])
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, opened))
	})
}
