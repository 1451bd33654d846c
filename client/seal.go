package client

import websocket "github.com/maoxiaoyue/hypgo-websocket"

// seal takes a message through the security pipeline.
func seal(b []byte, keys *websocket.SecurityConfig) ([]byte, error) {
	if keys.HMACKey != nil && (keys.SignThenEncrypt || keys.AESKey == nil) {
		b = websocket.Sign(b, keys.HMACKey)
	}
	if keys.AESKey != nil {
		encrypted, err := websocket.Encrypt(b, keys.AESKey)
		if err != nil {
			return nil, err
		}
		b = encrypted
		if keys.HMACKey != nil && !keys.SignThenEncrypt {
			b = websocket.Sign(b, keys.HMACKey)
		}
	}
	return b, nil
}

// open is the way back.
func open(b []byte, keys *websocket.SecurityConfig) (_ []byte, err error) {
	signedOutside := keys.HMACKey != nil && (!keys.SignThenEncrypt || keys.AESKey == nil)
	if signedOutside {
		if b, err = websocket.Verify(b, keys.HMACKey); err != nil {
			return nil, err
		}
	}
	if keys.AESKey != nil {
		if b, err = websocket.Decrypt(b, keys.AESKey); err != nil {
			return nil, err
		}
	}
	if keys.HMACKey != nil && !signedOutside {
		return websocket.Verify(b, keys.HMACKey)
	}
	return b, nil
}
