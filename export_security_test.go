package websocket

// SecurityPipeline shows the pipeline to external tests.
type SecurityPipeline struct{ p *pipeline }

func NewSecurityPipeline(aesKey, hmacKey []byte, signThenEncrypt bool) (*SecurityPipeline, error) {
	p, err := newPipeline(aesKey, hmacKey, signThenEncrypt)
	if p == nil {
		return nil, err
	}
	return &SecurityPipeline{p}, err
}

func (s *SecurityPipeline) Overhead() int { return s.p.overhead() }

func (s *SecurityPipeline) AppendSeal(dst, plaintext []byte) []byte {
	return s.p.appendSeal(dst, plaintext)
}

func (s *SecurityPipeline) Open(sealed []byte) ([]byte, error) { return s.p.open(sealed) }

// Nonce returns the part of a sealed message that holds its nonce, nil if it
// has none.
func (s *SecurityPipeline) Nonce(sealed []byte) []byte {
	if s.p.aead == nil {
		return nil
	}
	return s.p.nonce(sealed)
}

// SealWithNonce seals with a nonce of the test's choice.
func (s *SecurityPipeline) SealWithNonce(plaintext, nonce []byte) []byte {
	_, sealed := s.p.extend(nil, len(plaintext))
	copy(s.Nonce(sealed), nonce)
	s.p.seal(sealed, plaintext)
	return sealed
}

func ValidateSecurityConfig(c *SecurityConfig) error { return c.validate() }
