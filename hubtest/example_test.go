package hubtest_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/maoxiaoyue/hypgo-websocket/client"
	"github.com/maoxiaoyue/hypgo-websocket/hubtest"
)

// printer stands in for the *testing.T of a test, which these examples do not have. It prints
// the failures.
type printer struct{ cleanups []func() }

func (p *printer) Helper()             {}
func (p *printer) Logf(string, ...any) {}
func (p *printer) Cleanup(f func())    { p.cleanups = append(p.cleanups, f) }

func (p *printer) Errorf(format string, args ...any) {
	failure, _, _ := strings.Cut(fmt.Sprintf(format, args...), "\n") // without the list of events
	fmt.Println(failure)
}

func (p *printer) Fatalf(format string, args ...any) {
	p.Errorf(format, args...)
	panic("the test ends")
}

// end runs the cleanup functions, as at the end of a test.
func (p *printer) end() {
	for _, f := range slices.Backward(p.cleanups) {
		f()
	}
}

// A test of a hub whose OnMessage replies to its client.
func ExampleStart() {
	t := &printer{} // in a test, the *testing.T
	defer t.end()

	config := websocket.DefaultConfig
	config.OnMessage = func(c *websocket.Client, m *websocket.Message) {
		if m.Type == "greet" {
			_ = c.Send(&websocket.Message{Type: "greeting", Data: []byte(`"hello, ` + c.ID + `"`)})
		}
	}
	h := hubtest.Start(t, config)
	ann := h.Connect(hubtest.Options{ID: "ann", Codec: websocket.ProtobufCodec{}})
	ann.Send(websocket.Message{Type: "greet"})
	ann.Expect(websocket.Message{Type: "greeting", Data: []byte(`"hello, ann"`)})
	ann.ExpectNothing()
	fmt.Println(len(ann.Events()), "events")
	// Output: 3 events
}

// The hub belongs to the application, which refuses handshakes without a token.
func ExampleServe() {
	t := &printer{}
	defer t.end()

	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	go hub.Run(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ws", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("token") == "" {
			http.Error(w, "no token", http.StatusUnauthorized)
			return
		}
		hub.Handler().ServeHTTP(w, r)
	})

	h := hubtest.Serve(t, hub, mux)
	fmt.Println(h.Refused(hubtest.Options{Path: "/ws"}).Status)
	ann := h.Connect(hubtest.Options{Path: "/ws?token=1"})
	fmt.Println(ann.Server().Request().URL.Query().Get("token"))
	// Output:
	// 401 Unauthorized
	// 1
}

// Nodes that share an engine, and a fault between them.
func ExampleCluster() {
	t := &printer{}
	defer t.end()

	engine := brokertest.NewMemory(0)
	nodes := hubtest.Cluster(t, engine, 2, websocket.DefaultConfig)
	ann, bob := nodes[0].Connect(hubtest.Options{}), nodes[1].Connect(hubtest.Options{})
	ann.Subscribe("news")
	bob.Subscribe("news")
	_ = nodes[1].BrokerReady(context.Background()) // its subscription has reached the engine
	ann.Publish("news", "1")
	bob.Expect(websocket.Message{Channel: "news", Data: []byte("1"), ClientID: "node-0-client-1"})

	engine.Lose() // all that is under way between the nodes
	lost := bob.Until(func(e hubtest.Event) bool { return e.Gap != nil && e.Gap.Channel == "news" })
	fmt.Println(lost.Gap.Reason)
	// Output: broker
}

// A client of package client comes back after its connection has been cut, and misses nothing.
func ExampleHub_Dial() {
	t := &printer{}
	defer t.end()

	config := websocket.DefaultConfig
	config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
		return websocket.TopicOptions{History: websocket.HistoryOptions{Messages: 100, Age: time.Hour}}
	}
	h := hubtest.Start(t, config)
	c := h.Dial(client.Options{BackoffMin: time.Millisecond})
	if _, err := c.JoinRoom(context.Background(), "lobby", nil); err != nil {
		t.Fatalf("%v", err)
	}
	for _, data := range []string{"1", "2", "3"} {
		_ = h.PublishToRoom("lobby", &websocket.Message{Data: []byte(data)})
		if data == "2" {
			c.Cut()
		}
	}
	for range 3 {
		fmt.Println(string(c.Next().Data))
	}
	c.Complete(hubtest.Room("lobby"), []string{"1", "2", "3"})
	// Output:
	// 1
	// 2
	// 3
}

// A client that the test makes itself stands on a link too.
func ExampleLink() {
	t := &printer{}
	defer t.end()

	h := hubtest.Start(t, websocket.DefaultConfig)
	link := h.NewLink()
	link.Refuse(http.StatusForbidden)
	_, err := client.Dial(context.Background(), "ws://hub/", client.Options{NetDial: link.Dial})
	fmt.Println(err)
	link.Refuse(0)
	c, err := client.Dial(context.Background(), "ws://hub/", client.Options{NetDial: link.Dial})
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer c.Close()
	fmt.Println(c.ID())
	// Output:
	// websocket: cannot connect: 403 Forbidden: "Forbidden\n"
	// client-2
}

// A peer that reads nothing, in the place of a phone without a network, falls behind and a
// gap announces the messages that it has missed.
func ExampleLink_SetReadRate() {
	t := &printer{}
	defer t.end()

	config := websocket.DefaultConfig
	config.SlowConsumer = websocket.DropNewest
	config.ClientBacklog, config.MaxMessageSize = 4000, 1000
	h := hubtest.Start(t, config)
	ann := h.Connect(hubtest.Options{Window: 1000})
	ann.Subscribe("prices")
	ann.SetReadRate(0)
	var published []string
	for n := range 100 {
		published = append(published, fmt.Sprint(n))
		_ = h.PublishToChannelRaw("prices", fmt.Append(nil, n))
	}
	ann.SetReadRate(-1)
	ann.Sync()

	ann.Complete(hubtest.Channel("prices"), published)
	missed := 0
	for _, gap := range ann.Gaps() {
		if gap.Channel == "prices" {
			missed += int(gap.Count)
		}
	}
	fmt.Println(missed > 0, len(ann.Messages(hubtest.Channel("prices")))+missed)
	// Output: true 100
}

// A failure names the first publication that is missing. This client was told too late.
func ExampleRecorder_Complete() {
	t := &printer{} // prints the failure

	r := hubtest.NewRecorder(t, "ann")
	for _, data := range []string{"1", "2", "4"} {
		r.Record(&websocket.Message{Type: "message", Channel: "news", Data: []byte(data)})
	}
	r.RecordGap(websocket.Gap{Channel: "news", Count: 1, Reason: "slow_consumer"})

	published := []string{"1", "2", "3", "4"}
	r.InOrder(hubtest.Channel("news"), published) // does not fail
	r.Complete(hubtest.Channel("news"), published)
	// Output: hubtest: ann: 1 publications from 3 on are missing before message in "news": 4, and gaps have announced 0
}

// NoLeak is the first call of a test.
func ExampleNoLeak() {
	t := &printer{}
	defer t.end()

	hubtest.NoLeak(t)
	h := hubtest.Start(t, websocket.DefaultConfig)
	h.Connect(hubtest.Options{}).Publish("news", "1")
	fmt.Println(h.Stats().ActiveConnections)
	// Output: 1
}
