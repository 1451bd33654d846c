package websocket_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/seal/sealtest"
)

func TestSecurityConfigValidate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name            string
		aesKey, hmacKey []byte
		wantErr         string
	}{
		{"both keys", sealtest.AESKey, sealtest.HMACKey, ""},
		{"AES key only", sealtest.AESKey, nil, ""},
		{"HMAC key only", nil, sealtest.HMACKey, ""},
		{"HMAC key of one byte", nil, []byte{1}, ""},
		{"no key", nil, nil, ""},
		{"empty keys", []byte{}, []byte{}, "websocket: invalid key: Config.Security.AESKey is 0 bytes, want 32"},
		{"empty AES key", []byte{}, sealtest.HMACKey, "websocket: invalid key: Config.Security.AESKey is 0 bytes, want 32"},
		{"AES-128 key", make([]byte, 16), nil, "websocket: invalid key: Config.Security.AESKey is 16 bytes, want 32"},
		{"AES-192 key", make([]byte, 24), nil, "websocket: invalid key: Config.Security.AESKey is 24 bytes, want 32"},
		{"AES key one short", make([]byte, 31), nil, "websocket: invalid key: Config.Security.AESKey is 31 bytes, want 32"},
		{"AES key one long", make([]byte, 33), nil, "websocket: invalid key: Config.Security.AESKey is 33 bytes, want 32"},
		{"empty HMAC key", sealtest.AESKey, []byte{}, "websocket: invalid key: Config.Security.HMACKey is empty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := websocket.Config{Security: &websocket.SecurityConfig{AESKey: tt.aesKey, HMACKey: tt.hmacKey}}
			err := c.Validate()
			if tt.wantErr == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, websocket.ErrInvalidKey)
			require.ErrorContains(t, err, tt.wantErr)
		})
	}
}

// A SecurityConfig without keys sets the order for clients with their own keys. Other
// clients have no sealing, about which NewHub warns.
func TestSecurityConfigWithoutKeys(t *testing.T) {
	t.Parallel()
	for _, signThenEncrypt := range []bool{false, true} {
		t.Run(fmt.Sprint("sign then encrypt ", signThenEncrypt), func(t *testing.T) {
			t.Parallel()
			keys := randomKeys()
			keys.signThenEncrypt = signThenEncrypt
			config := websocket.DefaultConfig
			config.Security = &websocket.SecurityConfig{SignThenEncrypt: signThenEncrypt}
			b := setup(t, config, options{onConnect: func(c *websocket.Client) {
				if c.Request().URL.Query().Get("own") != "" {
					require.NoError(t, c.SetEncryptionKey(keys.aes))
					require.NoError(t, c.SetHMACKey(keys.hmac))
				}
			}})
			require.Len(t, b.logs.matching("warning", "neither AESKey nor HMACKey"), 1)

			sealed, _ := b.connect(t, dialing{codec: "protobuf", keys: keys, query: "own=1"})
			inClear, _ := b.connect(t, dialing{codec: "msgpack"})
			sealed.subscribe(t, "news")
			inClear.subscribe(t, "news")
			sealed.send(t, wire{Type: "publish", Channel: "news", Data: []byte("x")})
			require.Equal(t, "x", string(sealed.read(t).Data))
			require.Equal(t, "x", string(inClear.read(t).Data))
		})
	}
}

func TestNewSecurityConfig(t *testing.T) {
	t.Parallel()
	aesKey, hmacKey := slices.Clone(sealtest.AESKey), slices.Clone(sealtest.HMACKey)
	c := websocket.NewSecurityConfig(aesKey, hmacKey)
	clear(aesKey)
	clear(hmacKey)
	require.Equal(t, &websocket.SecurityConfig{AESKey: sealtest.AESKey, HMACKey: sealtest.HMACKey, SignThenEncrypt: true}, c)

	c = websocket.NewSecurityConfig(nil, sealtest.HMACKey)
	require.Nil(t, c.AESKey)
	c = websocket.NewSecurityConfig(sealtest.AESKey, []byte{})
	require.NotNil(t, c.HMACKey)
	require.ErrorIs(t, (&websocket.Config{Security: c}).Validate(), websocket.ErrInvalidKey)

	require.False(t, new(websocket.SecurityConfig).SignThenEncrypt)
}

func TestEncryptDecrypt(t *testing.T) {
	t.Parallel()
	for _, plaintext := range [][]byte{nil, {}, []byte("x"), bytes.Repeat([]byte("plaintext "), 1000)} {
		original := slices.Clone(plaintext)
		key := slices.Clone(sealtest.AESKey)

		encrypted, err := websocket.Encrypt(plaintext, key)
		require.NoError(t, err)
		require.Equal(t, sealtest.Encrypt(t, plaintext, key, encrypted[:12]), encrypted)
		again, err := websocket.Encrypt(plaintext, key)
		require.NoError(t, err)
		require.NotEqual(t, encrypted[:12], again[:12])

		wire := slices.Clone(encrypted)
		decrypted, err := websocket.Decrypt(encrypted, key)
		require.NoError(t, err)
		require.NotNil(t, decrypted)
		require.True(t, bytes.Equal(plaintext, decrypted))

		require.Equal(t, wire, encrypted)
		require.Equal(t, original, plaintext)
		require.Equal(t, sealtest.AESKey, key)
		clear(encrypted)
		require.True(t, bytes.Equal(original, decrypted), "the result shares bytes with the input")
	}
}

func TestEncryptWritesBesideItsInput(t *testing.T) {
	t.Parallel()
	buf := []byte("plaintext and the bytes after it, more than nonce, tag and HMAC take")
	before := slices.Clone(buf)
	_, err := websocket.Encrypt(buf[:9], sealtest.AESKey)
	require.NoError(t, err)
	websocket.Sign(buf[:9], sealtest.HMACKey)
	require.Equal(t, before, buf)
}

func TestDecryptRefuses(t *testing.T) {
	t.Parallel()
	encrypted, err := websocket.Encrypt([]byte("plaintext"), sealtest.AESKey)
	require.NoError(t, err)
	for bit := range len(encrypted) * 8 {
		altered := slices.Clone(encrypted)
		altered[bit/8] ^= 1 << (bit % 8)
		_, err := websocket.Decrypt(altered, sealtest.AESKey)
		require.ErrorIs(t, err, websocket.ErrDecrypt, "bit %d", bit)
	}
	for n := range len(encrypted) {
		_, err := websocket.Decrypt(encrypted[:n], sealtest.AESKey)
		require.ErrorIs(t, err, websocket.ErrDecrypt, "first %d bytes", n)
	}
	_, err = websocket.Decrypt(encrypted, make([]byte, 32))
	require.ErrorIs(t, err, websocket.ErrDecrypt)
	for _, n := range []int{0, 16, 24, 31, 33} {
		_, err = websocket.Decrypt(encrypted, make([]byte, n))
		require.ErrorIs(t, err, websocket.ErrInvalidKey, "%d bytes", n)
		_, err = websocket.Encrypt([]byte("plaintext"), make([]byte, n))
		require.ErrorIs(t, err, websocket.ErrInvalidKey, "%d bytes", n)
	}
}

func TestSignVerify(t *testing.T) {
	t.Parallel()
	for _, data := range [][]byte{nil, {}, []byte("x"), bytes.Repeat([]byte("data "), 1000)} {
		original := slices.Clone(data)
		key := slices.Clone(sealtest.HMACKey)

		signed := websocket.Sign(data, key)
		require.Equal(t, sealtest.Sign(data, key), signed)

		wire := slices.Clone(signed)
		verified, err := websocket.Verify(signed, key)
		require.NoError(t, err)
		require.NotNil(t, verified)
		require.True(t, bytes.Equal(data, verified))

		require.Equal(t, wire, signed)
		require.Equal(t, original, data)
		require.Equal(t, sealtest.HMACKey, key)
		clear(signed)
		require.True(t, bytes.Equal(original, verified), "the result shares bytes with the input")
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	signed := websocket.Sign([]byte("data"), sealtest.HMACKey)
	for bit := range len(signed) * 8 {
		altered := slices.Clone(signed)
		altered[bit/8] ^= 1 << (bit % 8)
		_, err := websocket.Verify(altered, sealtest.HMACKey)
		require.ErrorIs(t, err, websocket.ErrSignature, "bit %d", bit)
	}
	for n := range len(signed) {
		_, err := websocket.Verify(signed[:n], sealtest.HMACKey)
		require.ErrorIs(t, err, websocket.ErrSignature, "first %d bytes", n)
	}
	_, err := websocket.Verify(signed, []byte("another key"))
	require.ErrorIs(t, err, websocket.ErrSignature)

	for _, key := range [][]byte{nil, {}} {
		require.Nil(t, websocket.Sign([]byte("data"), key))
		_, err = websocket.Verify(sealtest.Sign([]byte("data"), key), key)
		require.ErrorIs(t, err, websocket.ErrInvalidKey)
	}
}

func ExampleEncrypt() {
	key := make([]byte, 32) // an AES-256 key; a real one is random
	plaintext := []byte("sensitive data")

	ciphertext, err := websocket.Encrypt(plaintext, key)
	if err != nil {
		panic(err)
	}
	decrypted, err := websocket.Decrypt(ciphertext, key)
	fmt.Printf("%d bytes, %s, %v\n", len(ciphertext), decrypted, err)

	ciphertext[20] ^= 1
	_, err = websocket.Decrypt(ciphertext, key)
	fmt.Println(err)
	// Output:
	// 42 bytes, sensitive data, <nil>
	// websocket: message cannot be decrypted
}

func ExampleSign() {
	hmacKey := []byte("my-hmac-secret")

	signed := websocket.Sign([]byte("sensitive data"), hmacKey)
	verified, err := websocket.Verify(signed, hmacKey)
	fmt.Printf("%d bytes, %s, %v\n", len(signed), verified, err)

	_, err = websocket.Verify(signed, []byte("another secret"))
	fmt.Println(err)
	// Output:
	// 46 bytes, sensitive data, <nil>
	// websocket: signature does not match
}
