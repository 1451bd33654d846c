package seal_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/internal/seal"
	"github.com/maoxiaoyue/hypgo-websocket/internal/seal/sealtest"
)

// order is a way to set up a pipeline.
type order struct {
	sealtest.Order
	overhead int
	altered  error // for an altered message
}

func orders() []order {
	o := sealtest.Orders()
	return []order{
		{o[0], 28, seal.ErrDecrypt},
		{o[1], 32, seal.ErrSignature},
		{o[2], 60, seal.ErrDecrypt},
		{o[3], 60, seal.ErrSignature},
	}
}

func pipeline(tb testing.TB, o sealtest.Order) *seal.Pipeline {
	p, err := seal.New(o.AESKey, o.HMACKey, o.SignThenEncrypt)
	require.NoError(tb, err)
	return p
}

func TestGoldenVectors(t *testing.T) {
	t.Parallel()
	tests := sealtest.Vectors(t, "../../testdata/hypgo-wire.json")
	require.Len(t, tests, 8)
	for _, tt := range tests {
		t.Run(tt.Name, func(t *testing.T) {
			t.Parallel()
			p := pipeline(t, tt.Order)

			got, err := p.Open(slices.Clone(tt.Wire))
			require.NoError(t, err)
			require.Equal(t, tt.Plaintext, got)

			require.Equal(t, tt.Wire, p.SealWithNonce(tt.Plaintext, p.Nonce(tt.Wire)))
		})
	}
}

// TestWireVectors seals the messages of the wire vectors with their nonces.
func TestWireVectors(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../testdata/vectors.json")
	require.NoError(t, err)
	var file struct {
		AESKey  string `json:"aes_key_hex"`
		HMACKey string `json:"hmac_key_hex"`
		Modes   []struct {
			Name            string
			AES, HMAC       bool
			SignThenEncrypt bool `json:"sign_then_encrypt"`
		}
		Messages []struct {
			Name, Codec string
			Wire        []struct {
				Mode  string
				Nonce string `json:"nonce_hex"`
				Bytes string `json:"bytes_hex"`
			}
		}
	}
	require.NoError(t, json.Unmarshal(raw, &file))
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		require.NoError(t, err)
		return b
	}
	pipelines := map[string]*seal.Pipeline{}
	for _, mode := range file.Modes {
		o := sealtest.Order{SignThenEncrypt: mode.SignThenEncrypt}
		if mode.AES {
			o.AESKey = unhex(file.AESKey)
		}
		if mode.HMAC {
			o.HMACKey = unhex(file.HMACKey)
		}
		pipelines[mode.Name] = pipeline(t, o)
	}
	require.NotEmpty(t, file.Messages)
	for _, m := range file.Messages {
		require.Equal(t, "none", m.Wire[0].Mode)
		plaintext := unhex(m.Wire[0].Bytes)
		require.Len(t, m.Wire, 5)
		for _, w := range m.Wire[1:] {
			p := pipelines[w.Mode]
			require.Equal(t, unhex(w.Bytes), p.SealWithNonce(plaintext, unhex(w.Nonce)), "%s/%s/%s", m.Name, m.Codec, w.Mode)
			got, err := p.Open(unhex(w.Bytes))
			require.NoError(t, err)
			require.Equal(t, plaintext, got)
		}
	}
}

func TestNewChecksKeys(t *testing.T) {
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
		{"empty AES key", []byte{}, sealtest.HMACKey, "websocket: invalid key: AES key is 0 bytes, want 32"},
		{"AES-128 key", make([]byte, 16), nil, "websocket: invalid key: AES key is 16 bytes, want 32"},
		{"AES-192 key", make([]byte, 24), nil, "websocket: invalid key: AES key is 24 bytes, want 32"},
		{"AES key one short", make([]byte, 31), nil, "websocket: invalid key: AES key is 31 bytes, want 32"},
		{"AES key one long", make([]byte, 33), nil, "websocket: invalid key: AES key is 33 bytes, want 32"},
		{"empty HMAC key", sealtest.AESKey, []byte{}, "websocket: invalid key: HMAC key is empty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := seal.New(tt.aesKey, tt.hmacKey, true)
			if tt.wantErr == "" {
				require.NoError(t, err)
				require.NotNil(t, p)
				return
			}
			require.ErrorIs(t, err, seal.ErrInvalidKey)
			require.ErrorContains(t, err, tt.wantErr)
			require.Nil(t, p)
		})
	}
	p, err := seal.New(nil, nil, true)
	require.NoError(t, err)
	require.Nil(t, p)
}

func TestAgreesWithOracle(t *testing.T) {
	t.Parallel()
	for _, tt := range orders() {
		t.Run(tt.Name, func(t *testing.T) {
			t.Parallel()
			p := pipeline(t, tt.Order)
			require.Equal(t, tt.overhead, p.Overhead())
			for _, size := range []int{0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 1000, 4096, 70000} {
				plaintext := bytes.Repeat([]byte("plaintext "), size/10+1)[:size]

				sealed := p.AppendSeal(nil, plaintext)
				require.Len(t, sealed, size+tt.overhead)
				require.Equal(t, tt.Seal(t, plaintext, p.Nonce(sealed)), sealed, "%d bytes", size)

				got, err := p.Open(tt.Seal(t, plaintext, []byte("twelve bytes")))
				require.NoError(t, err)
				require.Equal(t, plaintext, got, "%d bytes", size)
			}
		})
	}
}

func TestAppendSealKeepsToItsRoom(t *testing.T) {
	t.Parallel()
	plaintext := []byte("the plaintext")
	for _, tt := range orders() {
		t.Run(tt.Name, func(t *testing.T) {
			t.Parallel()
			p := pipeline(t, tt.Order)
			need := len(plaintext) + p.Overhead()
			for _, room := range []int{0, 1, need - 1, need, need + 1, need + 100} {
				buf := bytes.Repeat([]byte{0xee}, 7+room)
				dst := buf[:copy(buf, "header ")]

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

func TestOpensInPlace(t *testing.T) {
	t.Parallel()
	for _, tt := range orders() {
		t.Run(tt.Name, func(t *testing.T) {
			t.Parallel()
			p := pipeline(t, tt.Order)
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

func TestDrawsANonceForEveryMessage(t *testing.T) {
	t.Parallel()
	for _, tt := range orders() {
		if tt.AESKey == nil {
			continue
		}
		t.Run(tt.Name, func(t *testing.T) {
			t.Parallel()
			const goroutines, each = 4, 500
			p := pipeline(t, tt.Order)
			nonces := make([][]string, goroutines)
			var wg sync.WaitGroup
			for g := range goroutines {
				wg.Go(func() {
					buf := make([]byte, 0, 100) // the same memory for every message
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

func TestRefusesAlteredMessages(t *testing.T) {
	t.Parallel()
	for _, tt := range orders() {
		t.Run(tt.Name, func(t *testing.T) {
			t.Parallel()
			p := pipeline(t, tt.Order)
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

func TestRefusesOtherKeys(t *testing.T) {
	t.Parallel()
	otherAES, otherHMAC := bytes.Repeat([]byte{1}, 32), []byte("another HMAC key")
	tests := []struct {
		name            string
		aesKey, hmacKey []byte
		signThenEncrypt bool
		want            map[string]error // by the order that sealed
	}{
		{"other AES key", otherAES, sealtest.HMACKey, true, map[string]error{
			"aes-only":          seal.ErrDecrypt,
			"hmac-only":         seal.ErrDecrypt,
			"sign-then-encrypt": seal.ErrDecrypt,
			"encrypt-then-sign": seal.ErrDecrypt,
		}},
		{"other HMAC key", sealtest.AESKey, otherHMAC, true, map[string]error{
			"aes-only":          seal.ErrSignature, // decrypts, but is too short for a signature
			"hmac-only":         seal.ErrDecrypt,
			"sign-then-encrypt": seal.ErrSignature,
			"encrypt-then-sign": seal.ErrDecrypt,
		}},
		{"other HMAC key, other order", sealtest.AESKey, otherHMAC, false, map[string]error{
			"aes-only":          seal.ErrSignature,
			"hmac-only":         seal.ErrSignature,
			"sign-then-encrypt": seal.ErrSignature,
			"encrypt-then-sign": seal.ErrSignature,
		}},
		{"same keys, sign-then-encrypt", sealtest.AESKey, sealtest.HMACKey, true, map[string]error{
			"aes-only":          seal.ErrSignature,
			"hmac-only":         seal.ErrDecrypt,
			"encrypt-then-sign": seal.ErrDecrypt,
		}},
		{"same keys, encrypt-then-sign", sealtest.AESKey, sealtest.HMACKey, false, map[string]error{
			"aes-only":          seal.ErrSignature,
			"hmac-only":         seal.ErrDecrypt, // the signature matches, but the data is not encrypted
			"sign-then-encrypt": seal.ErrSignature,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := seal.New(tt.aesKey, tt.hmacKey, tt.signThenEncrypt)
			require.NoError(t, err)
			for _, o := range orders() {
				want, ok := tt.want[o.Name]
				if !ok {
					continue
				}
				_, err := p.Open(pipeline(t, o.Order).AppendSeal(nil, []byte("plaintext")))
				require.ErrorIs(t, err, want, o.Name)
			}
		})
	}
}

func TestCopiesKeys(t *testing.T) {
	t.Parallel()
	for _, tt := range orders() {
		t.Run(tt.Name, func(t *testing.T) {
			t.Parallel()
			changed := tt
			changed.AESKey, changed.HMACKey = slices.Clone(tt.AESKey), slices.Clone(tt.HMACKey)
			p := pipeline(t, changed.Order)
			clear(changed.AESKey)
			clear(changed.HMACKey)

			got, err := pipeline(t, tt.Order).Open(p.AppendSeal(nil, []byte("the plaintext")))
			require.NoError(t, err)
			require.Equal(t, "the plaintext", string(got))
		})
	}
}

func TestConcurrently(t *testing.T) {
	t.Parallel()
	for _, tt := range orders() {
		t.Run(tt.Name, func(t *testing.T) {
			t.Parallel()
			p := pipeline(t, tt.Order)
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
func TestDoesNotAllocate(t *testing.T) {
	for _, tt := range orders() {
		t.Run(tt.Name, func(t *testing.T) {
			p := pipeline(t, tt.Order)
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
