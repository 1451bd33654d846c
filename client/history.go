package client

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// History reads publications that the history of the channel or room has, oldest first. A
// page has at most 1,000 messages, 100 by default, and at most as many as fit into the
// hub's Config.MaxMessageSize. For older ones, call History again with the Offset of the
// first message as Before. For newer ones, use the position of the last message as Since.
// The messages belong to the caller. Without a history HistoryPage.Reason is "none".
//
// History waits for a connection and for the hub's reply until ctx ends. Errors: *Error,
// with CodeForbidden if the client is not in the channel or room any more, ErrClosed and
// ctx's error.
func (s *Subscription) History(ctx context.Context, q websocket.HistoryQuery) (websocket.HistoryPage, error) {
	request := topicRequest{Before: q.Before, Limit: q.Limit}
	request.Channel, request.RoomID = s.topic.key.split()
	if q.Since != (websocket.Position{}) {
		request.Since = &q.Since
	}
	data, err := json.Marshal(request)
	if err != nil {
		return websocket.HistoryPage{}, err
	}
	m, err := s.client.call(ctx, call{message: &websocket.Message{Type: typeHistory, Data: data}, resend: true})
	if err != nil {
		return websocket.HistoryPage{}, withoutUnknown(err)
	}
	var reply struct {
		websocket.HistoryPage
		Messages []json.RawMessage `json:"messages"`
	}
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		return websocket.HistoryPage{}, fmt.Errorf("websocket: history of %q cannot be read: %w", s.Name(), err)
	}
	page := reply.HistoryPage
	for _, b := range reply.Messages {
		m := new(websocket.Message)
		if err := (websocket.JSONCodec{}).Unmarshal(b, m); err != nil {
			return websocket.HistoryPage{}, fmt.Errorf("websocket: history of %q cannot be read: %w", s.Name(), err)
		}
		page.Messages = append(page.Messages, m)
	}
	return page, nil
}
