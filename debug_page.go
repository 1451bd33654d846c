package websocket

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const debugStyle = `:root{color-scheme:light dark}
body{background:Canvas;color:CanvasText;font:1rem/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}
th,td{border-bottom:1px solid GrayText;padding:.25rem .5rem;text-align:left;vertical-align:top;overflow-wrap:anywhere}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums}td.n{overflow-wrap:normal}
input,button{font:inherit;padding:.25rem .5rem}`

// htmlPage builds a page. text escapes all that it is given; nothing else of clients reaches
// the page.
type htmlPage struct{ strings.Builder }

// begin writes the page's head, and the title as its heading.
func (p *htmlPage) begin(title string) {
	p.WriteString(`<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>`)
	p.WriteString(escaped(title))
	p.WriteString(`</title><style>` + debugStyle + `</style></head><body><main><h1>`)
	p.text(title)
	p.WriteString(`</h1>`)
}

func (p *htmlPage) end() []byte {
	p.WriteString(`</main></body></html>`)
	return []byte(p.String())
}

// text writes s, isolated so that text from right to left does not move its surroundings.
func (p *htmlPage) text(s string) { p.WriteString("<bdi>" + escaped(s) + "</bdi>") }

// escaped returns s as HTML. Invisible characters become visible.
func escaped(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == ' ' || unicode.IsGraphic(r) && !unicode.IsSpace(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
	}
	return html.EscapeString(b.String())
}

// client writes a link to the page of a client.
func (p *htmlPage) client(id string) {
	p.WriteString(`<a href="?client=` + html.EscapeString(url.QueryEscape(id)) + `">`)
	p.text(id)
	p.WriteString(`</a>`)
}

// table writes a heading and a table with rows rows. A column whose name begins with # is
// of numbers. cell writes one cell; the first of a row is its heading.
func (p *htmlPage) table(heading, none string, columns []string, rows int, cell func(row, column int)) {
	p.WriteString(`<h2>` + heading + `</h2>`)
	if rows == 0 {
		p.WriteString(`<p>` + none + `</p>`)
		return
	}
	p.WriteString(`<table><thead><tr>`)
	class := make([]string, len(columns))
	for i, name := range columns {
		if strings.HasPrefix(name, "#") {
			class[i] = ` class="n"`
		}
		p.WriteString(`<th scope="col"` + class[i] + `>` + strings.TrimPrefix(name, "#") + `</th>`)
	}
	p.WriteString(`</tr></thead><tbody>`)
	for row := range rows {
		p.WriteString(`<tr>`)
		for i := range columns {
			tag, scope := "td", ""
			if i == 0 {
				tag, scope = "th", ` scope="row"`
			}
			p.WriteString(`<` + tag + scope + class[i] + `>`)
			cell(row, i)
			p.WriteString(`</` + tag + `>`)
		}
		p.WriteString(`</tr>`)
	}
	p.WriteString(`</tbody></table>`)
}

// facts writes a table of names and values.
func (p *htmlPage) facts(heading string, facts [][2]string) {
	p.table(heading, "", []string{"Name", "Value"}, len(facts), func(row, column int) { p.text(facts[row][column]) })
}

// hubPage is the page about the hub.
func hubPage(s *debugState) []byte {
	var p htmlPage
	p.begin(strings.TrimSpace("WebSocket hub " + s.Health.Node))
	p.WriteString(`<p>` + s.Time.UTC().Format(time.DateTime) + ` UTC. <a href="?format=json">JSON</a></p>`)
	p.WriteString(`<form role="search"><label>Client ID contains <input type="search" name="search" maxlength="255" value="`)
	p.WriteString(html.EscapeString(strings.ToValidUTF8(s.search, "")))
	p.WriteString(`"></label> <button>Search</button></form>`)
	if s.search != "" {
		p.clients("Clients found", "No client has such an ID.", s.Matches)
	}
	p.facts("Health", flatten(s.Health))
	p.clients("Largest backlogs", "No client has a backlog.", s.Slow)
	p.topics("Largest channels", "No channel has members.", s.Channels)
	p.topics("Largest rooms", "No room has members.", s.Rooms)
	p.facts("Statistics", flatten(s.Stats))
	return p.end()
}

func (p *htmlPage) clients(heading, none string, all []debugClient) {
	columns := []string{"Client", "User", "#Messages", "#Bytes", "Accepts nothing since"}
	p.table(heading, none, columns, len(all), func(row, column int) {
		c := &all[row]
		switch column {
		case 0:
			p.client(c.ID)
		case 1:
			p.text(c.User)
		case 2:
			p.WriteString(strconv.Itoa(c.Backlog.Messages))
		case 3:
			p.WriteString(strconv.FormatInt(c.Backlog.Bytes, 10))
		default:
			p.WriteString(timeText(c.Backlog.BlockedSince))
		}
	})
}

func (p *htmlPage) topics(heading, none string, all []debugTopic) {
	p.table(heading, none, []string{"Name", "#Members"}, len(all), func(row, column int) {
		if column == 0 {
			p.text(all[row].Name)
		} else {
			p.WriteString(strconv.Itoa(all[row].Members))
		}
	})
}

const hubLink = `<p><a href="?">Hub</a></p>`

// clientPage is the page about one client.
func clientPage(c *ClientInfo) []byte {
	var p htmlPage
	p.begin("Client " + c.ID)
	p.WriteString(hubLink)
	p.facts("Connection", [][2]string{
		{"User", c.User}, {"Address", c.RemoteAddr}, {"Codec", c.Codec},
		{"Compression", yesNo(c.Compression)}, {"Sealed", yesNo(c.Sealed)},
		{"Connected at", timeText(c.ConnectedAt)},
		{"Round trip, latest", durationText(c.RoundTrip)}, {"Round trip, smoothed", durationText(c.SmoothedRoundTrip)},
	})
	p.facts("Backlog", [][2]string{
		{"Messages", strconv.Itoa(c.Backlog.Messages)}, {"Bytes", strconv.FormatInt(c.Backlog.Bytes, 10)},
		{"Accepts nothing since", timeText(c.Backlog.BlockedSince)},
	})
	p.facts("Limits", [][2]string{
		{"Delayed by rate limits", durationText(c.Limits.RateDelay)}, {"Delayed at", timeText(c.Limits.RateDelayedAt)},
		{"Refused joins", strconv.FormatUint(c.Limits.RefusedJoins, 10)}, {"Refused requests", strconv.FormatUint(c.Limits.RefusedRequests, 10)},
	})
	p.table("Latest losses", "No message was lost.", []string{"Time", "Topic", "#Messages", "Reason"}, len(c.Losses), func(row, column int) {
		lost := &c.Losses[row]
		switch column {
		case 0:
			p.WriteString(timeText(lost.At))
		case 1:
			switch {
			case lost.Channel != "":
				p.WriteString("channel ")
				p.text(lost.Channel)
			case lost.RoomID != "":
				p.WriteString("room ")
				p.text(lost.RoomID)
			}
		case 2:
			if lost.Count > 0 {
				p.WriteString(strconv.FormatUint(lost.Count, 10))
			}
		default:
			p.text(lost.Reason)
		}
	})
	p.table(fmt.Sprintf("Topics (%d)", c.TopicCount), "The client is in no channel or room.",
		[]string{"Name", "Kind", "#Members", "#Latest in history", "#Behind"}, len(c.Topics), func(row, column int) {
			t := &c.Topics[row]
			switch {
			case column == 0:
				p.text(t.Name)
			case column == 1:
				p.WriteString(t.Kind)
			case column == 2:
				p.WriteString(strconv.Itoa(t.Members))
			case t.Position == nil:
			case column == 3:
				p.WriteString(strconv.FormatUint(t.Position.Offset, 10))
			default:
				p.WriteString(strconv.FormatUint(t.Behind, 10))
			}
		})
	return p.end()
}

// missingPage is the page about a client that is not connected.
func missingPage(id string) []byte {
	var p htmlPage
	p.begin("Client not found")
	p.WriteString(hubLink + `<p>No client with the ID `)
	p.text(id)
	p.WriteString(` is connected to this hub.</p>`)
	return p.end()
}

// flatten returns the members of v as encoding/json names them, those of objects with the
// object's name before theirs, in the order of the struct's fields. It leaves out arrays.
func flatten(v any) (facts [][2]string) {
	b, _ := json.Marshal(v) // its types always have an encoding
	var add func(prefix string, b []byte)
	add = func(prefix string, b []byte) {
		d := json.NewDecoder(bytes.NewReader(b))
		_, _ = d.Token()
		for d.More() {
			key, _ := d.Token()
			var value json.RawMessage
			_ = d.Decode(&value)
			name := prefix + fmt.Sprint(key)
			switch value[0] {
			case '{':
				add(name+".", value)
			case '[':
			default:
				var text string
				if json.Unmarshal(value, &text) != nil {
					text = string(value)
				}
				facts = append(facts, [2]string{name, text})
			}
		}
	}
	add("", b)
	return facts
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateTime)
}

func durationText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.Round(time.Microsecond).String()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
