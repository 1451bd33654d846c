package main

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/wire"
)

// handshake connects and performs the WebSocket handshake. early are the bytes
// received behind the response.
func handshake(d net.Dialer, opt *api.Connect, id, target int) (conn net.Conn, early []byte, err error) {
	conn, err = d.Dial("tcp", opt.Addr)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	if opt.CertPEM != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(opt.CertPEM)) {
			return conn, nil, errors.New("no certificate in PEM")
		}
		conn = tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
	}
	if err = conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return conn, nil, err
	}
	var nonce [16]byte
	rand.Read(nonce[:]) // never fails
	key := base64.StdEncoding.EncodeToString(nonce[:])
	var b strings.Builder
	fmt.Fprintf(&b, "GET /ws?target=%d&client=%d HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", target, id, opt.Addr, key)
	if opt.Subprotocol != "" {
		fmt.Fprintf(&b, "Sec-WebSocket-Protocol: %s\r\n", opt.Subprotocol)
	}
	if opt.Deflate {
		b.WriteString("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n")
	}
	b.WriteString("\r\n")
	if _, err = conn.Write([]byte(b.String())); err != nil {
		return conn, nil, err
	}
	r := bufio.NewReaderSize(conn, 1024)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return conn, nil, fmt.Errorf("handshake: %w", err)
	}
	sum := sha1.Sum([]byte(key + wire.GUID))
	ext := res.Header.Get("Sec-WebSocket-Extensions")
	switch {
	case res.StatusCode != http.StatusSwitchingProtocols:
		err = fmt.Errorf("handshake: %s", res.Status)
	case res.Header.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]):
		err = errors.New("handshake: wrong Sec-WebSocket-Accept")
	case opt.Deflate && (!strings.Contains(ext, "permessage-deflate") || !strings.Contains(ext, "server_no_context_takeover")):
		err = fmt.Errorf("handshake: the server did not accept permessage-deflate with server_no_context_takeover, but %q", ext)
	case !opt.Deflate && ext != "":
		err = fmt.Errorf("handshake: extension %q was not offered", ext)
	}
	if err != nil {
		return conn, nil, err
	}
	if opt.Dialect == api.DialectCentrifuge {
		if err = centrifugeConnect(conn, r); err != nil {
			return conn, nil, err
		}
	}
	if n := r.Buffered(); n > 0 {
		p, _ := r.Peek(n)
		early = append(early, p...)
	}
	return conn, early, conn.SetDeadline(time.Time{})
}

// centrifugeConnect sends centrifuge's connect command, which every client of it
// has to send first. The server subscribes the client to its channel while it
// handles the command.
func centrifugeConnect(conn net.Conn, r *bufio.Reader) error {
	var key [4]byte
	rand.Read(key[:]) // never fails
	if _, err := conn.Write(wire.AppendClient(nil, wire.Text, []byte(`{"id":1,"connect":{}}`), key)); err != nil {
		return err
	}
	for n := 2; n <= r.Size(); n++ {
		b, err := r.Peek(n)
		if err != nil {
			return fmt.Errorf("connect command: %w", err)
		}
		f, size, err := wire.Parse(b, false, r.Size())
		if err != nil {
			return err
		}
		if size > 0 {
			reply := f.Payload
			if f.RSV1 {
				if reply, err = newDecoder().inflate(reply); err != nil {
					return fmt.Errorf("connect command: %w", err)
				}
			}
			if !strings.Contains(string(reply), `"connect":`) {
				return fmt.Errorf("connect command: unexpected reply %q", reply)
			}
			_, err = r.Discard(size)
			return err
		}
	}
	return errors.New("connect command: reply too long")
}

// errClosed returns an error with the code and reason of a Close frame's payload.
func errClosed(p []byte) error {
	if len(p) < 2 {
		return errors.New("closed without a code")
	}
	return fmt.Errorf("closed with %d %q", binary.BigEndian.Uint16(p), p[2:])
}
