package websocket

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"time"
)

// clientHeartbeat is the time of silence after which a client should send a ping. Two of
// them are half of the default PongWait, so a client notices a dead connection before
// the hub does.
const clientHeartbeat = 15 * time.Second

// features names the requests and flags that clients may use beyond those of HypGo.
var features = []string{"ping", "except_self", "requests"}

// hello is the data of the ack to a hub:hello request. It is JSON in every codec.
type hello struct {
	ClientID  string      `json:"client_id"`
	User      string      `json:"user"`
	Limits    helloLimits `json:"limits"`
	Heartbeat int64       `json:"heartbeat"` // milliseconds
	Version   string      `json:"version"`
	Features  []string    `json:"features"`
}

// helloLimits has the limits of the hub's Config. 0 means no limit.
type helloLimits struct {
	MessageRate      int64 `json:"message_rate"`
	ByteRate         int64 `json:"byte_rate"`
	MaxMessageSize   int64 `json:"max_message_size"`
	MaxNameLength    int   `json:"max_name_length"`
	MaxSubscriptions int   `json:"max_subscriptions"`
}

// isHubRequest reports whether the hub handles messages of a type itself, without
// Config.OnMessage and Config.Authorize.
func isHubRequest(typ string) bool {
	switch typ {
	case typeHello, typePing, typeHistory, typePresence, typePublished:
		return true
	}
	return false
}

// replyToHubRequest answers a request that isHubRequest reports, if it has an ID.
// It waits while the log is full, which slows down only this client's reading.
func (c *Client) replyToHubRequest(m *Message) {
	if m.ID == "" {
		return
	}
	ack := Message{Type: typeAck, ID: m.ID, Timestamp: m.Timestamp}
	switch m.Type {
	case typeHistory:
		c.replyToHistory(m)
		return
	case typePresence:
		c.replyToPresence(m)
		return
	case typePublished:
		c.replyToPublished(m)
		return
	case typeHello:
		c.learnFeatures(m.Data)
		reply := func() {
			ack.Data = c.helloData()
			c.sendReply(&ack)
		}
		if c.hub.node == nil || !c.hub.node.queueHello(c, reply) {
			reply()
		}
		return
	}
	c.sendReply(&ack)
}

// featureGoaway is the feature of clients that understand hub:goaway.
const featureGoaway = "goaway"

// learnFeatures records the features that the client names in its hub:hello. Data that
// cannot be read names none.
func (c *Client) learnFeatures(data []byte) {
	var told struct {
		Features []string `json:"features"`
	}
	if len(data) > 0 && json.Unmarshal(data, &told) == nil && slices.Contains(told.Features, featureGoaway) {
		c.takesGoaway.Store(true)
	}
}

// sendReply sends a reply to a request of this client.
func (c *Client) sendReply(reply *Message) {
	if err := c.hub.events.reply(context.Background(), c, c.hub.newPublication(reply, toClients)); err != nil {
		c.hub.log(&c.kept.values, slog.LevelDebug, "reply not sent", peerText("id", reply.ID), peerText("client", c.ID), peerText("error", err.Error()))
	}
}

func (c *Client) helloData() []byte {
	config, features := &c.hub.config, features
	if config.TopicOptions != nil {
		features = append(slices.Clone(features), "history", "presence")
	}
	data, err := json.Marshal(hello{
		ClientID: c.ID,
		User:     c.User(),
		Limits: helloLimits{
			MessageRate:      max(config.MessageRate, 0),
			ByteRate:         max(config.ByteRate, 0),
			MaxMessageSize:   config.MaxMessageSize,
			MaxNameLength:    config.MaxNameLength,
			MaxSubscriptions: max(config.MaxSubscriptions, 0),
		},
		Heartbeat: clientHeartbeat.Milliseconds(),
		Version:   version,
		Features:  features,
	})
	if err != nil {
		panic(err) // strings and numbers always have an encoding
	}
	return data
}
