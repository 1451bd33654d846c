package seal_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/internal/seal"
	"github.com/maoxiaoyue/hypgo-websocket/internal/seal/sealtest"
)

func FuzzOpen(f *testing.F) {
	for _, v := range sealtest.Vectors(f, "../../testdata/hypgo-wire.json") {
		f.Add(v.Wire, v.AESKey, v.HMACKey, v.SignThenEncrypt)
		f.Add(v.Plaintext, v.AESKey, v.HMACKey, v.SignThenEncrypt)
	}
	for _, o := range orders() {
		f.Add([]byte{}, o.AESKey, o.HMACKey, o.SignThenEncrypt)
		f.Add(make([]byte, o.overhead), o.AESKey, o.HMACKey, o.SignThenEncrypt)
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
		p, err := seal.New(aesKey, hmacKey, signThenEncrypt)
		require.NoError(t, err)

		opened, err := p.Open(slices.Clone(data))
		if err == nil {
			require.Equal(t, data, p.SealWithNonce(opened, p.Nonce(data)))
		} else {
			require.Contains(t, []error{seal.ErrDecrypt, seal.ErrSignature}, err)
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
