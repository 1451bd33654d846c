package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

const help = `/who lists the members of this room
/roll 2d6 rolls two dice with six sides
/me waves is a message about yourself`

const (
	maxDice  = 20
	maxSides = 1000
)

var (
	errMe   = refusal("try /me waves")
	errRoll = refusal("try /roll 2d6: at most %d dice with 2 to %d sides", maxDice, maxSides)
)

// command handles the requests of type "command", texts that begin with a slash. Only
// the tab that asks gets the answer, a text.
func (c *chat) command(ctx context.Context, client *websocket.Client, m *websocket.Message) (any, error) {
	var request struct {
		Room string `json:"room"`
		Text string `json:"text"`
	}
	switch {
	case decode(m.Data, &request) != nil || !validText(request.Text):
		return nil, errText
	case !slices.Contains(client.Rooms(), request.Room):
		return nil, errNotInRoom
	}
	name, argument, _ := strings.Cut(strings.TrimSpace(request.Text), " ")
	switch name {
	case "/help":
		return help, nil
	case "/who":
		return c.who(ctx, request.Room)
	case "/roll":
		return roll(argument)
	case "/me": // the page publishes it, unless nothing follows
		return nil, errMe
	default:
		return nil, refusal("there is no command %s, /help lists them", cleaned(name, maxName))
	}
}

// who lists the members of a room, those that joined first first.
func (c *chat) who(ctx context.Context, room string) (string, error) {
	members, err := c.hub.Presence(ctx, websocket.RoomTopic, room)
	if err != nil {
		return "", err
	}
	lines := make([]string, len(members))
	for i, m := range members {
		var p person
		if err := json.Unmarshal(m.Info, &p); err != nil {
			return "", err
		}
		lines[i] = fmt.Sprintf("%s, here for %s", p.Name, time.Since(m.Since).Truncate(time.Second))
	}
	return strings.Join(lines, "\n"), nil
}

// roll rolls dice, for example "2d6".
func roll(dice string) (string, error) {
	left, right, _ := strings.Cut(dice, "d")
	count, err := strconv.Atoi(left)
	sides, err2 := strconv.Atoi(right)
	if errors.Join(err, err2) != nil || count < 1 || count > maxDice || sides < 2 || sides > maxSides {
		return "", errRoll
	}
	sum, rolled := 0, make([]string, count)
	for i := range rolled {
		n := 1 + rand.IntN(sides)
		sum += n
		rolled[i] = strconv.Itoa(n)
	}
	return fmt.Sprintf("%s: %s = %d", dice, strings.Join(rolled, " + "), sum), nil
}
