package seal

// Nonce returns the part of a sealed message that holds its nonce, or nil if the
// message is not encrypted.
func (p *Pipeline) Nonce(sealed []byte) []byte {
	if p.aead == nil {
		return nil
	}
	return p.nonce(sealed)
}

// SealWithNonce seals with the given nonce instead of a random one.
func (p *Pipeline) SealWithNonce(plaintext, nonce []byte) []byte {
	_, sealed := p.extend(nil, len(plaintext))
	copy(p.Nonce(sealed), nonce)
	p.seal(sealed, plaintext)
	return sealed
}
