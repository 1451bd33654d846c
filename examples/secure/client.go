package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"time"

	gorilla "github.com/gorilla/websocket"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// talk is a Go client. It subscribes to a channel, publishes to it, and prints each
// message that it receives, sealed and opened.
func talk(ctx context.Context, url string, roots *x509.CertPool, keys *websocket.SecurityConfig, out io.Writer) error {
	dialer := websocket.Dialer{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		Subprotocols:    []string{"msgpack"},
	}
	conn, _, err := dialer.DialContext(ctx, url, nil)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetReadDeadline(deadline) // fails only if the connection is closed
	}
	version := conn.UnderlyingConn().(*tls.Conn).ConnectionState().Version
	fmt.Fprintf(out, "connected to %s: %s, subprotocol %s\n", url, tls.VersionName(version), conn.Subprotocol())

	c := sealedConn{conn: conn, codec: websocket.MsgpackCodec{}, keys: keys, out: out}
	if err := c.send(&websocket.Message{Type: "subscribe", Data: []byte(`{"channel":"news"}`), ID: "1"}); err != nil {
		return err
	}
	if err := c.receive("ack"); err != nil {
		return err
	}
	if err := c.send(&websocket.Message{Type: "publish", Channel: "news", Data: []byte(`{"headline":"Sealed inside of TLS"}`)}); err != nil {
		return err
	}
	if err := c.receive("message"); err != nil {
		return err
	}
	closeFrame := gorilla.FormatCloseMessage(websocket.CloseNormalClosure, "done")
	return conn.WriteControl(gorilla.CloseMessage, closeFrame, time.Now().Add(time.Second))
}

// sealedConn encodes, signs and encrypts the messages that it sends, and does the
// reverse with those that it receives. The hub does the same on its side.
type sealedConn struct {
	conn  *gorilla.Conn
	codec websocket.Codec
	keys  *websocket.SecurityConfig
	out   io.Writer
}

func (c *sealedConn) send(m *websocket.Message) error {
	encoded, err := c.codec.Marshal(m)
	if err != nil {
		return err
	}
	sealed, err := websocket.Encrypt(websocket.Sign(encoded, c.keys.HMACKey), c.keys.AESKey)
	if err != nil {
		return err
	}
	return c.conn.WriteMessage(websocket.BinaryMessage, sealed) // sealed messages are always binary frames
}

// receive reads and prints one message. It fails if the message is not of type want.
func (c *sealedConn) receive(want string) error {
	_, sealed, err := c.conn.ReadMessage()
	if err != nil {
		return err
	}
	signed, err := websocket.Decrypt(sealed, c.keys.AESKey)
	if err != nil {
		return err
	}
	encoded, err := websocket.Verify(signed, c.keys.HMACKey)
	if err != nil {
		return err
	}
	var m websocket.Message
	if err := c.codec.Unmarshal(encoded, &m); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "received %d sealed bytes: %s\n", len(sealed), short(sealed))
	fmt.Fprintf(c.out, "  opened: type %s, channel %s, data %s\n", m.Type, m.Channel, m.Data)
	if m.Type != want {
		return fmt.Errorf("received a message of type %q, want %q", m.Type, want)
	}
	return nil
}
