package websocket_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
)

var (
	testAESKey  = []byte("an AES-256 key is 32 bytes long!")
	testHMACKey = []byte("an HMAC key has any length")
)

// securityOrder is one of the ways to set up a pipeline.
type securityOrder struct {
	name            string
	aesKey, hmacKey []byte
	signThenEncrypt bool
	overhead        int
	altered         error // what a pipeline says to altered bytes
}

func securityOrders() []securityOrder {
	return []securityOrder{
		{"aes-only", testAESKey, nil, false, 28, websocket.ErrDecrypt},
		{"hmac-only", nil, testHMACKey, false, 32, websocket.ErrSignature},
		{"sign-then-encrypt", testAESKey, testHMACKey, true, 60, websocket.ErrDecrypt},
		{"encrypt-then-sign", testAESKey, testHMACKey, false, 60, websocket.ErrSignature},
	}
}

func (o securityOrder) pipeline(tb testing.TB) *websocket.SecurityPipeline {
	p, err := websocket.NewSecurityPipeline(o.aesKey, o.hmacKey, o.signThenEncrypt)
	require.NoError(tb, err)
	return p
}

// oracleEncrypt and oracleSign are the format in the plainest words.
func oracleEncrypt(tb testing.TB, plaintext, key, nonce []byte) []byte {
	block, err := aes.NewCipher(key)
	require.NoError(tb, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(tb, err)
	return slices.Concat(nonce, aead.Seal(nil, nonce, plaintext, nil))
}

func oracleSign(data, key []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return slices.Concat(h.Sum(nil), data)
}

func (o securityOrder) oracleSeal(tb testing.TB, plaintext, nonce []byte) []byte {
	switch {
	case o.hmacKey == nil:
		return oracleEncrypt(tb, plaintext, o.aesKey, nonce)
	case o.aesKey == nil:
		return oracleSign(plaintext, o.hmacKey)
	case o.signThenEncrypt:
		return oracleEncrypt(tb, oracleSign(plaintext, o.hmacKey), o.aesKey, nonce)
	default:
		return oracleSign(oracleEncrypt(tb, plaintext, o.aesKey, nonce), o.hmacKey)
	}
}

type securityVector struct {
	securityOrder
	plaintext, wire []byte
}

func securityVectors(tb testing.TB) []securityVector {
	raw, err := os.ReadFile("testdata/hypgo-wire.json")
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
	var vectors []securityVector
	for _, c := range file.Cases {
		if c.Kind != "security" {
			continue
		}
		vectors = append(vectors, securityVector{
			securityOrder: securityOrder{
				name:            c.Name,
				aesKey:          unhex(c.AESKeyHex),
				hmacKey:         unhex(c.HMACKeyHex),
				signThenEncrypt: c.Order == "sign-then-encrypt",
			},
			plaintext: unhex(c.PlaintextHex),
			wire:      unhex(c.WireHex),
		})
	}
	return vectors
}

func TestSecurityGoldenVectors(t *testing.T) {
	t.Parallel()
	tests := securityVectors(t)
	require.Len(t, tests, 8)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := tt.pipeline(t)

			got, err := p.Open(slices.Clone(tt.wire))
			require.NoError(t, err)
			require.Equal(t, tt.plaintext, got)

			require.Equal(t, tt.wire, p.SealWithNonce(tt.plaintext, p.Nonce(tt.wire)))
		})
	}
}

func TestSecurityAgreesWithOracle(t *testing.T) {
	t.Parallel()
	for _, tt := range securityOrders() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := tt.pipeline(t)
			require.Equal(t, tt.overhead, p.Overhead())
			for _, size := range []int{0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 1000, 4096, 70000} {
				plaintext := bytes.Repeat([]byte("plaintext "), size/10+1)[:size]

				sealed := p.AppendSeal(nil, plaintext)
				require.Len(t, sealed, size+tt.overhead)
				require.Equal(t, tt.oracleSeal(t, plaintext, p.Nonce(sealed)), sealed, "%d bytes", size)

				got, err := p.Open(tt.oracleSeal(t, plaintext, []byte("twelve bytes")))
				require.NoError(t, err)
				require.Equal(t, plaintext, got, "%d bytes", size)
			}
		})
	}
}

func TestSecurityAppendSealKeepsToItsRoom(t *testing.T) {
	t.Parallel()
	plaintext := []byte("the plaintext")
	for _, tt := range securityOrders() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := tt.pipeline(t)
			need := len(plaintext) + p.Overhead()
			for _, room := range []int{0, 1, need - 1, need, need + 1, need + 100} {
				buf := bytes.Repeat([]byte{0xee}, 7+room)
				dst := append(buf[:0], "header "...)

				got := p.AppendSeal(dst, plaintext)
				require.Len(t, got, len(dst)+need)
				require.Equal(t, "header ", string(got[:len(dst)]))
				if room >= need {
					require.Same(t, &buf[0], &got[0], "room %d", room)
					require.Equal(t, bytes.Repeat([]byte{0xee}, room-need), buf[7+need:], "room %d", room)
				}
				require.Equal(t, "the plaintext", string(plaintext))

				opened, err := p.Open(got[len(dst):])
				require.NoError(t, err)
				require.Equal(t, plaintext, opened)
			}
		})
	}
}

func TestSecurityOpensInPlace(t *testing.T) {
	t.Parallel()
	for _, tt := range securityOrders() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := tt.pipeline(t)
			buf := append(p.AppendSeal(nil, []byte("the plaintext")), "next frame"...)
			sealed := buf[:len(buf)-len("next frame")]

			got, err := p.Open(sealed)
			require.NoError(t, err)
			require.Equal(t, "the plaintext", string(got))
			at := bytes.Index(sealed, got)
			require.GreaterOrEqual(t, at, 0)
			require.Same(t, &sealed[at], &got[0])

			_ = append(got, "appended by the caller, as long as the room"...)
			require.Equal(t, "next frame", string(buf[len(sealed):]))
		})
	}
}

func TestSecurityDrawsANonceForEveryMessage(t *testing.T) {
	t.Parallel()
	for _, tt := range securityOrders() {
		if tt.aesKey == nil {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			const goroutines, each = 4, 500
			p := tt.pipeline(t)
			nonces := make([][]string, goroutines)
			var wg sync.WaitGroup
			for g := range goroutines {
				wg.Go(func() {
					buf := make([]byte, 0, 100) // the same room again and again
					for range each {
						nonces[g] = append(nonces[g], string(p.Nonce(p.AppendSeal(buf, []byte("the plaintext")))))
					}
				})
			}
			wg.Wait()
			seen := map[string]bool{}
			for _, nonce := range slices.Concat(nonces...) {
				seen[nonce] = true
			}
			require.Len(t, seen, goroutines*each)
		})
	}
}

func TestSecurityRefusesAlteredMessages(t *testing.T) {
	t.Parallel()
	for _, tt := range securityOrders() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := tt.pipeline(t)
			for _, plaintext := range []string{"", "plaintext"} {
				sealed := p.AppendSeal(nil, []byte(plaintext))
				for bit := range len(sealed) * 8 {
					altered := slices.Clone(sealed)
					altered[bit/8] ^= 1 << (bit % 8)
					got, err := p.Open(altered)
					require.ErrorIs(t, err, tt.altered, "bit %d", bit)
					require.Nil(t, got)
				}
				for n := range len(sealed) {
					got, err := p.Open(slices.Clone(sealed[:n]))
					require.ErrorIs(t, err, tt.altered, "first %d bytes", n)
					require.Nil(t, got)
					_, err = p.Open(slices.Clone(sealed[len(sealed)-n:]))
					require.ErrorIs(t, err, tt.altered, "last %d bytes", n)
				}
				_, err := p.Open(append(slices.Clone(sealed), 0))
				require.ErrorIs(t, err, tt.altered)
				_, err = p.Open(nil)
				require.ErrorIs(t, err, tt.altered)
			}
		})
	}
}

func TestSecurityRefusesOtherKeys(t *testing.T) {
	t.Parallel()
	otherAES, otherHMAC := bytes.Repeat([]byte{1}, 32), []byte("another HMAC key")
	tests := []struct {
		name            string
		aesKey, hmacKey []byte
		signThenEncrypt bool
		want            map[string]error // by the order that sealed
	}{
		{"other AES key", otherAES, testHMACKey, true, map[string]error{
			"aes-only":          websocket.ErrDecrypt,
			"hmac-only":         websocket.ErrDecrypt,
			"sign-then-encrypt": websocket.ErrDecrypt,
			"encrypt-then-sign": websocket.ErrDecrypt,
		}},
		{"other HMAC key", testAESKey, otherHMAC, true, map[string]error{
			"aes-only":          websocket.ErrSignature, // decrypts, but is too short for a signature
			"hmac-only":         websocket.ErrDecrypt,
			"sign-then-encrypt": websocket.ErrSignature,
			"encrypt-then-sign": websocket.ErrDecrypt,
		}},
		{"other HMAC key, other order", testAESKey, otherHMAC, false, map[string]error{
			"aes-only":          websocket.ErrSignature,
			"hmac-only":         websocket.ErrSignature,
			"sign-then-encrypt": websocket.ErrSignature,
			"encrypt-then-sign": websocket.ErrSignature,
		}},
		{"same keys, sign-then-encrypt", testAESKey, testHMACKey, true, map[string]error{
			"aes-only":          websocket.ErrSignature,
			"hmac-only":         websocket.ErrDecrypt,
			"encrypt-then-sign": websocket.ErrDecrypt,
		}},
		{"same keys, encrypt-then-sign", testAESKey, testHMACKey, false, map[string]error{
			"aes-only":          websocket.ErrSignature,
			"hmac-only":         websocket.ErrDecrypt, // well signed, but not encrypted
			"sign-then-encrypt": websocket.ErrSignature,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := websocket.NewSecurityPipeline(tt.aesKey, tt.hmacKey, tt.signThenEncrypt)
			require.NoError(t, err)
			for _, o := range securityOrders() {
				want, ok := tt.want[o.name]
				if !ok {
					continue
				}
				_, err := p.Open(o.pipeline(t).AppendSeal(nil, []byte("plaintext")))
				require.ErrorIs(t, err, want, o.name)
			}
		})
	}
}

func TestSecurityConfigValidate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name            string
		aesKey, hmacKey []byte
		wantErr         string
	}{
		{"both keys", testAESKey, testHMACKey, ""},
		{"AES key only", testAESKey, nil, ""},
		{"HMAC key only", nil, testHMACKey, ""},
		{"HMAC key of one byte", nil, []byte{1}, ""},
		{"no key", nil, nil, "websocket: Security has neither AESKey nor HMACKey"},
		{"empty AES key", []byte{}, testHMACKey, "websocket: Security.AESKey is 0 bytes, want 32: "},
		{"AES-128 key", make([]byte, 16), nil, "websocket: Security.AESKey is 16 bytes, want 32: "},
		{"AES-192 key", make([]byte, 24), nil, "websocket: Security.AESKey is 24 bytes, want 32: "},
		{"AES key one short", make([]byte, 31), nil, "websocket: Security.AESKey is 31 bytes, want 32: "},
		{"AES key one long", make([]byte, 33), nil, "websocket: Security.AESKey is 33 bytes, want 32: "},
		{"empty HMAC key", testAESKey, []byte{}, "websocket: Security.HMACKey is empty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := websocket.ValidateSecurityConfig(&websocket.SecurityConfig{AESKey: tt.aesKey, HMACKey: tt.hmacKey})
			p, pipelineErr := websocket.NewSecurityPipeline(tt.aesKey, tt.hmacKey, true)
			if tt.wantErr == "" {
				require.NoError(t, err)
				require.NoError(t, pipelineErr)
				require.NotNil(t, p)
				return
			}
			require.ErrorIs(t, err, websocket.ErrInvalidKey)
			require.ErrorContains(t, err, tt.wantErr)
			require.Nil(t, p)
			if tt.aesKey != nil || tt.hmacKey != nil {
				require.ErrorIs(t, pipelineErr, websocket.ErrInvalidKey)
			} else {
				require.NoError(t, pipelineErr) // a client without keys
			}
		})
	}
}

func TestNewSecurityConfig(t *testing.T) {
	t.Parallel()
	aesKey, hmacKey := slices.Clone(testAESKey), slices.Clone(testHMACKey)
	c := websocket.NewSecurityConfig(aesKey, hmacKey)
	clear(aesKey)
	clear(hmacKey)
	require.Equal(t, &websocket.SecurityConfig{AESKey: testAESKey, HMACKey: testHMACKey, SignThenEncrypt: true}, c)

	c = websocket.NewSecurityConfig(nil, testHMACKey)
	require.Nil(t, c.AESKey)
	c = websocket.NewSecurityConfig(testAESKey, []byte{})
	require.NotNil(t, c.HMACKey)
	require.ErrorIs(t, websocket.ValidateSecurityConfig(c), websocket.ErrInvalidKey)

	require.False(t, new(websocket.SecurityConfig).SignThenEncrypt)
}

func TestSecurityPipelineCopiesKeys(t *testing.T) {
	t.Parallel()
	for _, tt := range securityOrders() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			changed := tt
			changed.aesKey, changed.hmacKey = slices.Clone(tt.aesKey), slices.Clone(tt.hmacKey)
			p := changed.pipeline(t)
			clear(changed.aesKey)
			clear(changed.hmacKey)

			got, err := tt.pipeline(t).Open(p.AppendSeal(nil, []byte("the plaintext")))
			require.NoError(t, err)
			require.Equal(t, "the plaintext", string(got))
		})
	}
}

func TestSecurityPipelineConcurrently(t *testing.T) {
	t.Parallel()
	for _, tt := range securityOrders() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := tt.pipeline(t)
			const goroutines = 8
			errs := make(chan error, goroutines)
			for g := range goroutines {
				go func() { // ends after 300 messages
					plaintext := bytes.Repeat([]byte{byte(g)}, 50*g)
					var buf []byte
					for range 300 {
						buf = p.AppendSeal(buf[:0], plaintext)
						altered := slices.Clone(buf)
						altered[len(altered)-1] ^= 1
						if _, err := p.Open(altered); !errors.Is(err, tt.altered) {
							errs <- fmt.Errorf("goroutine %d: altered message: %v", g, err)
							return
						}
						if got, err := p.Open(buf); err != nil || !bytes.Equal(plaintext, got) {
							errs <- fmt.Errorf("goroutine %d: opened %q, %v", g, got, err)
							return
						}
					}
					errs <- nil
				}()
			}
			for range goroutines {
				require.NoError(t, <-errs)
			}
		})
	}
}

// Not parallel: allocations are counted for the whole process.
func TestSecurityPipelineDoesNotAllocate(t *testing.T) {
	for _, tt := range securityOrders() {
		t.Run(tt.name, func(t *testing.T) {
			p := tt.pipeline(t)
			plaintext := make([]byte, 128)
			buf := make([]byte, 0, len(plaintext)+p.Overhead())
			require.Zero(t, testing.AllocsPerRun(200, func() {
				sealed := p.AppendSeal(buf, plaintext)
				if _, err := p.Open(sealed); err != nil {
					t.Error(err)
				}
				if _, err := p.Open(sealed[1:]); err == nil {
					t.Error("a part was opened")
				}
			}))
		})
	}
}

func TestEncryptDecrypt(t *testing.T) {
	t.Parallel()
	for _, plaintext := range [][]byte{nil, {}, []byte("x"), bytes.Repeat([]byte("plaintext "), 1000)} {
		original := slices.Clone(plaintext)
		key := slices.Clone(testAESKey)

		encrypted, err := websocket.Encrypt(plaintext, key)
		require.NoError(t, err)
		require.Equal(t, oracleEncrypt(t, plaintext, key, encrypted[:12]), encrypted)
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
		require.Equal(t, testAESKey, key)
		clear(encrypted)
		require.True(t, bytes.Equal(original, decrypted), "the result shares bytes with the input")
	}
}

func TestEncryptWritesBesideItsInput(t *testing.T) {
	t.Parallel()
	buf := []byte("plaintext and what lies behind it, more than nonce and tag take")
	before := slices.Clone(buf)
	_, err := websocket.Encrypt(buf[:9], testAESKey)
	require.NoError(t, err)
	websocket.Sign(buf[:9], testHMACKey)
	require.Equal(t, before, buf)
}

func TestDecryptRefuses(t *testing.T) {
	t.Parallel()
	encrypted, err := websocket.Encrypt([]byte("plaintext"), testAESKey)
	require.NoError(t, err)
	for bit := range len(encrypted) * 8 {
		altered := slices.Clone(encrypted)
		altered[bit/8] ^= 1 << (bit % 8)
		_, err := websocket.Decrypt(altered, testAESKey)
		require.ErrorIs(t, err, websocket.ErrDecrypt, "bit %d", bit)
	}
	for n := range len(encrypted) {
		_, err := websocket.Decrypt(encrypted[:n], testAESKey)
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
		key := slices.Clone(testHMACKey)

		signed := websocket.Sign(data, key)
		require.Equal(t, oracleSign(data, key), signed)

		wire := slices.Clone(signed)
		verified, err := websocket.Verify(signed, key)
		require.NoError(t, err)
		require.NotNil(t, verified)
		require.True(t, bytes.Equal(data, verified))

		require.Equal(t, wire, signed)
		require.Equal(t, original, data)
		require.Equal(t, testHMACKey, key)
		clear(signed)
		require.True(t, bytes.Equal(original, verified), "the result shares bytes with the input")
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	signed := websocket.Sign([]byte("data"), testHMACKey)
	for bit := range len(signed) * 8 {
		altered := slices.Clone(signed)
		altered[bit/8] ^= 1 << (bit % 8)
		_, err := websocket.Verify(altered, testHMACKey)
		require.ErrorIs(t, err, websocket.ErrSignature, "bit %d", bit)
	}
	for n := range len(signed) {
		_, err := websocket.Verify(signed[:n], testHMACKey)
		require.ErrorIs(t, err, websocket.ErrSignature, "first %d bytes", n)
	}
	_, err := websocket.Verify(signed, []byte("another key"))
	require.ErrorIs(t, err, websocket.ErrSignature)

	for _, key := range [][]byte{nil, {}} {
		require.Nil(t, websocket.Sign([]byte("data"), key))
		_, err = websocket.Verify(oracleSign([]byte("data"), key), key)
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
