package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// Limits. A tab is one connection of the page. Texts and names count in characters.
const (
	maxText        = 2000
	maxName        = 24
	maxRoomName    = 32
	maxRoomsPerTab = 8

	keptMessages = 1000 // of a room
	keptFor      = 24 * time.Hour
)

// topicOptions makes the engine keep the messages of rooms, and shows their members. It
// is the same on all nodes.
func topicOptions(kind websocket.TopicKind, _ string) websocket.TopicOptions {
	if kind != websocket.RoomTopic {
		return websocket.TopicOptions{}
	}
	return websocket.TopicOptions{
		History:  websocket.HistoryOptions{Messages: keptMessages, Age: keptFor},
		Presence: true,
	}
}

// The refusals that a tab can receive in a reply.
var (
	errForbidden = refusal("this chat does not allow that")
	errRoomName  = refusal("a room's name has 1 to %d printable characters", maxRoomName)
	errNotInRoom = refusal("join the room first")
	errText      = refusal("a message has 1 to %d characters", maxText)
)

// refusal returns an error whose text the hub sends to the tab.
func refusal(format string, args ...any) *websocket.RequestError {
	return &websocket.RequestError{Message: fmt.Sprintf(format, args...)}
}

// clientID returns the hash of a secret that the page keeps. So a tab has the same ID on
// every node, and members see one tab that moves, not two. A name proves nothing.
func (n *node) clientID(r *http.Request) (string, error) {
	if ticket, ok := websocket.BearerToken(r); ok {
		if _, err := n.open(ticket); err != nil {
			return "", err
		}
	}
	secret := r.URL.Query().Get("tab")
	if secret == "" {
		return rand.Text(), nil
	}
	hash := sha256.Sum256([]byte(secret))
	return base64.RawURLEncoding.EncodeToString(hash[:16]), nil
}

// connected is OnConnect. No message is sent to or received from the tab before it
// returns, so that the keys set here apply from the first frame.
func (n *node) connected(client *websocket.Client) {
	r := client.Request()
	ticket, sealed := websocket.BearerToken(r)
	if sealed {
		keys, err := n.open(ticket)
		if err == nil {
			err = errors.Join(client.SetEncryptionKey(keys.AES), client.SetHMACKey(keys.HMAC))
		}
		if err != nil {
			n.report("close", client.Close(websocket.CloseUnauthorized, errTicket.Error()))
			return
		}
	}
	// The history recognizes repeated publications of a user, so the user is one tab, by
	// a name that all nodes know.
	client.SetUser(client.ID)
	client.SetMetadata("name", cleanName(r.URL.Query().Get("name")))
	n.report("info", client.SetInfo(struct {
		Name   string `json:"name"`
		Codec  string `json:"codec"`
		Sealed bool   `json:"sealed"`
	}{nameOf(client), client.Codec().Name(), sealed}))
	n.report("nodes", client.Send(n.nodes()))
}

func nameOf(client *websocket.Client) string {
	v, _ := client.GetMetadata("name")
	name, _ := v.(string)
	return name
}

// said is the data of a message as pages publish it.
type said struct {
	Text string `json:"text"`
}

// stamped is the data of a message as members get it: its author may have left when a
// later member reads it.
type stamped struct {
	said
	Name string `json:"name"`
	Node string `json:"node"`
}

// received is OnMessage. It runs before authorize, which refuses a message for a room
// without data.
func (n *node) received(client *websocket.Client, m *websocket.Message) {
	if websocket.Action(m.Type) != websocket.ActionPublishRoom {
		return
	}
	var message said
	if decode(m.Data, &message) != nil || !validText(message.Text) {
		m.Data = nil
		return
	}
	m.Data = encode(stamped{message, nameOf(client), n.name})
}

// authorize decides whether the request of a tab is allowed. The hub then carries it
// out.
func authorize(client *websocket.Client, r websocket.AuthorizeRequest) error {
	switch r.Action {
	case websocket.ActionJoinRoom:
		if r.Target == "" || r.Target != cleaned(r.Target, maxRoomName) {
			return errRoomName
		}
		return nil
	case websocket.ActionLeaveRoom:
		return nil
	case websocket.ActionPublishRoom:
		if len(r.Message.Data) == 0 {
			return errText
		}
		if websocket.AllowMembers(client, r) != nil {
			return errNotInRoom
		}
		return nil
	}
	return errForbidden
}

func validText(text string) bool {
	return strings.TrimSpace(text) != "" && utf8.RuneCountInString(text) <= maxText
}

// decode reads one JSON value without unknown fields.
func decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one value")
	}
	return nil
}

// cleanName returns a valid name for a requested name.
func cleanName(name string) string {
	if name = cleaned(name, maxName); name != "" {
		return name
	}
	return "Guest"
}

// cleaned returns the printable characters of s, at most most of them, with single
// spaces between words.
func cleaned(s string, most int) string {
	printable := func(r rune) rune {
		if unicode.IsPrint(r) || unicode.IsSpace(r) {
			return r
		}
		return -1
	}
	s = strings.Join(strings.Fields(strings.Map(printable, strings.ToValidUTF8(s, ""))), " ")
	if runes := []rune(s); len(runes) > most {
		s = strings.TrimSpace(string(runes[:most]))
	}
	return s
}
