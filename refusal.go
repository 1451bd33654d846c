package websocket

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// HandshakeError is an error of Config.ClientID that refuses a handshake with a chosen
// HTTP response. It may be wrapped: the client gets only the fields of this type.
//
//	return "", &HandshakeError{Status: 429, Header: http.Header{"Retry-After": {"30"}}, Message: "too many logins"}
type HandshakeError struct {
	// Status is the status of the response, from 300 to 599. Defaults to 401.
	Status int
	// Header is added to the response. It replaces fields of the same name. Fields that
	// belong to the connection, the handshake or the body are ignored.
	Header http.Header
	// Message is the body of the response, a line of plain text. Defaults to the text of
	// the status.
	Message string
}

// Error implements error.
func (e *HandshakeError) Error() string {
	if e == nil {
		return "websocket: nil *HandshakeError" // returned as a non-nil error by mistake
	}
	return fmt.Sprintf("websocket: handshake refused with %d: %s", e.status(), e.message())
}

func (e *HandshakeError) status() int {
	if e.Status == 0 {
		return http.StatusUnauthorized
	}
	return e.Status
}

func (e *HandshakeError) message() string {
	if e.Message == "" {
		return http.StatusText(e.status())
	}
	return e.Message
}

// Refusal describes a handshake that the hub refuses, for Config.OnRefuse.
type Refusal struct {
	// Request is the request of the handshake. It must not be changed.
	Request *http.Request
	// RemoteAddr is the address of the client, as Client.RemoteAddr returns it.
	RemoteAddr netip.Addr
	// Status is the HTTP status of the response.
	Status int
	// Reason says what was wrong. It is one of the constants of its type, so that it can
	// be the label of a metric.
	Reason RefusalReason
	// Err has the details: the error of Config.ClientID, or a text that may contain
	// values from the request. It is never nil.
	Err error
}

// RefusalReason is the reason for which a handshake was refused.
type RefusalReason string

const (
	// RefusedNotWebSocket means that the request is no WebSocket handshake (426).
	RefusedNotWebSocket RefusalReason = "not_websocket"
	// RefusedMalformed means that the handshake violates RFC 6455 or has a body (400, 405).
	RefusedMalformed RefusalReason = "malformed"
	// RefusedCodec means that the hub supports none of the client's codecs (400).
	RefusedCodec RefusalReason = "codec"
	// RefusedOrigin means that the origin is not allowed (403).
	RefusedOrigin RefusalReason = "origin"
	// RefusedClientID means that Config.ClientID returned an error or an invalid ID (401,
	// or the status of a HandshakeError).
	RefusedClientID RefusalReason = "client_id"
	// RefusedDuplicateID means that the ID is in use (409).
	RefusedDuplicateID RefusalReason = "duplicate_id"
	// RefusedLimit means that Config.MaxClients or Config.MaxHandshakes is reached (503), or
	// that the header is larger than Config.MaxHeaderBytes (431).
	RefusedLimit RefusalReason = "limit"
	// RefusedAddressLimit means that Config.MaxClientsPerAddress is reached (429).
	RefusedAddressLimit RefusalReason = "address_limit"
	// RefusedMemory means that Config.MemoryBudget is used up (503).
	RefusedMemory RefusalReason = "memory"
	// RefusedNotRunning means that Run was not called in time, or that the request ended
	// before (503).
	RefusedNotRunning RefusalReason = "not_running"
	// RefusedClosed means that the hub is shutting down or has shut down (503).
	RefusedClosed RefusalReason = "closed"
	// RefusedDraining means that Hub.Drain was called (503).
	RefusedDraining RefusalReason = "draining"
	// RefusedHook means that CheckOrigin or ClientID panicked (500).
	RefusedHook RefusalReason = "hook"
	// RefusedWriter means that the http.ResponseWriter cannot hand over the connection (500).
	RefusedWriter RefusalReason = "writer"
)

// refusal is the error of a handshake that is refused with an HTTP status.
type refusal struct {
	reason RefusalReason
	status int
	text   string      // for the client
	header http.Header // added to the response
	cause  error       // for the log and OnRefuse; nil if text says everything
}

func (e *refusal) Error() string { return e.text }

func (e *refusal) err() error {
	if e.cause != nil {
		return e.cause
	}
	return e
}

func refuse(reason RefusalReason, status int, format string, args ...any) error {
	return &refusal{reason: reason, status: status, text: "websocket: " + fmt.Sprintf(format, args...)}
}

// errHook is the refusal of a handshake whose hook panicked.
var errHook = refuse(RefusedHook, http.StatusInternalServerError, "internal error")

// refusalOf returns the refusal for an error of Config.ClientID.
func refusalOf(err error) error {
	e := &refusal{reason: RefusedClientID, status: http.StatusUnauthorized, text: "websocket: not authenticated", cause: err}
	var chosen *HandshakeError
	switch {
	case !errors.As(err, &chosen) || chosen == nil:
	case chosen.status() < 300 || chosen.status() > 599:
		e.status, e.text = http.StatusInternalServerError, "websocket: internal error"
		e.cause = fmt.Errorf("HandshakeError.Status is %d, want 300 to 599: %w", chosen.Status, err)
	default:
		e.status, e.text, e.header = chosen.status(), chosen.message(), chosen.Header
	}
	return e
}

// writeRefusal logs a refusal, reports it to Config.OnRefuse and writes its response.
func (h *Hub) writeRefusal(w http.ResponseWriter, r *http.Request, err error) {
	var e *refusal
	if !errors.As(err, &e) {
		e = &refusal{reason: RefusedHook, status: http.StatusInternalServerError, text: err.Error()}
	}
	h.refused.add(e.reason)
	h.logRefusal(r, e)
	if h.config.OnRefuse != nil {
		report := Refusal{Request: r, RemoteAddr: h.clientAddress(r), Status: e.status, Reason: e.reason, Err: e.err()}
		h.protect("OnRefuse", "a handshake from", h.addressText(r), func() { h.config.OnRefuse(report) }, nil)
	}
	header := w.Header()
	for name, values := range e.header {
		if wsproto.AllowedInResponse(name, nil) {
			header[http.CanonicalHeaderKey(name)] = slices.Clone(values)
		}
	}
	switch e.status {
	case http.StatusServiceUnavailable:
		if header.Get("Retry-After") == "" {
			header.Set("Retry-After", "1")
		}
	case http.StatusMethodNotAllowed:
		header.Set("Allow", http.MethodGet)
	case http.StatusUpgradeRequired:
		if r.ProtoMajor != 1 {
			break // other versions have no such fields (RFC 9113 section 8.2.2)
		}
		header.Set("Connection", "Upgrade")
		header.Set("Upgrade", "websocket")
	}
	header.Set("Sec-Websocket-Version", wsproto.Version)
	http.Error(w, e.text, e.status)
}

// logRefusal logs a refusal, as a warning if the operator may have to change something.
func (h *Hub) logRefusal(r *http.Request, e *refusal) {
	level := slog.LevelInfo
	switch e.reason {
	case RefusedOrigin, RefusedLimit, RefusedAddressLimit, RefusedMemory, RefusedNotRunning, RefusedWriter:
		level = slog.LevelWarn
	}
	h.logFields(r.Context(), "refused: "+string(e.reason), level, "handshake refused",
		slog.Int("status", e.status), slog.String("reason", string(e.reason)), peerText("address", h.addressText(r)),
		peerText("origin", r.Header.Get("Origin")), peerText("host", r.Host), peerText("error", e.err().Error()))
}

// responseHeader returns the header of the 101 response: the fields that middleware has
// set, such as cookies, and the ones of the handshake. It does not change either.
func responseHeader(set, handshake http.Header) http.Header {
	if len(set) == 0 {
		return handshake
	}
	header := make(http.Header, len(set)+len(handshake))
	connection := wsproto.ListOf(set["Connection"])
	for name, values := range set {
		if wsproto.AllowedInResponse(name, connection) {
			header[name] = values
		}
	}
	maps.Copy(header, handshake)
	return header
}

// refuseHijacked is writeRefusal for a connection that the server has handed over. The
// caller closes the connection.
func (h *Hub) refuseHijacked(nc net.Conn, r *http.Request, err error) {
	w := &collectedResponse{header: http.Header{}}
	h.writeRefusal(w, r, err)
	response := http.Response{
		StatusCode: w.status, ProtoMajor: 1, ProtoMinor: 1, Header: w.header,
		Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Close: true,
	}
	_ = nc.SetWriteDeadline(time.Now().Add(h.config.HandshakeTimeout)) // without it the peer decides
	if err := response.Write(nc); err != nil {
		h.log(r.Context(), slog.LevelDebug, "refusal of a handshake not sent", peerText("address", h.addressText(r)), peerText("error", err.Error()))
	}
}

// collectedResponse is a http.ResponseWriter that keeps a response.
type collectedResponse struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *collectedResponse) Header() http.Header         { return w.header }
func (w *collectedResponse) WriteHeader(status int)      { w.status = status }
func (w *collectedResponse) Write(b []byte) (int, error) { return w.body.Write(b) }
