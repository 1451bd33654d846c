//go:build unix

// Ratecost measures what one client costs the others if it sends as fast as
// Config.MessageRate allows. docs/configuration.md has its results.
//
//	go run ./internal/ratecost
//
// The hub runs in this process. A child process has the sender and the members of
// its room or channel, which read everything. The bystanders are two clients of this
// process in a room of their own. One of them publishes 100 messages a second, and the
// time until the other has received each is the latency. The processor time is that of
// this process, as processors in use.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	gorilla "github.com/gorilla/websocket"
	"github.com/maoxiaoyue/hypgo-websocket"
)

func main() {
	seconds := flag.Int("seconds", 5, "seconds of measuring for each row")
	repeat := flag.Int("repeat", 3, "runs of each row; the row has the medians")
	child := flag.String("child", "", "the hub's `URL`; run as the child process")
	members := flag.Int("members", 1, "in the child process, the members besides the sender")
	flag.Parse()
	if *child != "" {
		if err := flood(*child, *members); err != nil {
			log.Fatal(err)
		}
		return
	}
	fmt.Printf("%s, GOMAXPROCS %d, %s\n\n", runtime.Version(), runtime.GOMAXPROCS(0), time.Now().Format(time.DateOnly))
	fmt.Println("| messages to | MessageRate | received per second | processors | p50 | p99 |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, members := range []int{1, 100} {
		topic := map[int]string{1: "a room of two", 100: "a channel of 100"}[members]
		for _, rate := range []int64{0, 1000, 2000, 5000, 10_000, -1} {
			var runs []result
			for range *repeat {
				r, err := measure(rate, members, time.Duration(*seconds)*time.Second)
				if err != nil {
					log.Fatal(err)
				}
				runs = append(runs, r)
			}
			median := func(f func(result) float64) float64 {
				slices.SortFunc(runs, func(a, b result) int { return int(1e9 * (f(a) - f(b))) })
				return f(runs[len(runs)/2])
			}
			name := strconv.FormatInt(rate, 10)
			switch rate {
			case 0:
				name = "no sender"
			case -1:
				name = "no limit"
			}
			fmt.Printf("| %s | %s | %.0f | %.2f | %.2f ms | %.2f ms |\n", topic, name,
				median(func(r result) float64 { return r.received }), median(func(r result) float64 { return r.processors }),
				median(func(r result) float64 { return r.p50 }), median(func(r result) float64 { return r.p99 }))
		}
	}
}

type result struct {
	received, processors float64
	p50, p99             float64 // milliseconds
}

// measure runs a hub and the bystanders, with a sender unless rate is 0.
func measure(rate int64, members int, duration time.Duration) (r result, err error) {
	config := websocket.DefaultConfig
	config.MessageRate = rate
	config.OnConnect = func(c *websocket.Client) { joinTopic(c) }
	hub := websocket.NewHub(nil, config)
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(context.Background()) }() // ends with Shutdown
	defer func() { err = errors.Join(err, hub.Shutdown(context.Background()), <-ran) }()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return r, err
	}
	server := &http.Server{Handler: hub.Handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // ends with Close
	defer func() { _ = server.Close() }()      // the program ends
	url := "ws://" + listener.Addr().String()
	if rate != 0 {
		stop, err := startChild(url, members)
		if err != nil {
			return r, err
		}
		defer stop()
		time.Sleep(2 * time.Second) // the sender has used up its burst
	}
	before, used, began := hub.Stats().MessagesReceived, processorTime(), time.Now()
	latencies, err := bystand(url, duration)
	if err != nil {
		return r, err
	}
	took := time.Since(began)
	slices.Sort(latencies)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return result{
		received:   float64(hub.Stats().MessagesReceived-before-uint64(len(latencies))) / took.Seconds(),
		processors: (processorTime() - used).Seconds() / took.Seconds(),
		p50:        ms(latencies[len(latencies)/2]),
		p99:        ms(latencies[len(latencies)*99/100]),
	}, nil
}

// joinTopic makes c a member of the room or channel in its request.
func joinTopic(c *websocket.Client) {
	query := c.Request().URL.Query()
	if room := query.Get("room"); room != "" {
		_ = c.JoinRoom(room) // fails only if the client has gone
	}
	if channel := query.Get("channel"); channel != "" {
		_ = c.Subscribe(channel)
	}
}

// bystand returns the latencies of a room of two.
func bystand(url string, duration time.Duration) (latencies []time.Duration, err error) {
	var peers [2]*gorilla.Conn
	for i := range peers {
		if peers[i], _, err = gorilla.DefaultDialer.Dial(url+"/", nil); err != nil {
			return nil, err
		}
		defer func() { _ = peers[i].Close() }() // the program ends
	}
	if err := peers[1].WriteMessage(gorilla.TextMessage, []byte(`{"type":"join_room","data":{"room_id":"bystanders"},"id":"1"}`)); err != nil {
		return nil, err
	}
	if _, _, err := peers[1].ReadMessage(); err != nil { // the ack
		return nil, err
	}
	for end := time.Now().Add(duration); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		began := time.Now()
		if err := peers[0].WriteMessage(gorilla.TextMessage, []byte(`{"type":"publish_room","channel":"bystanders","data":"x"}`)); err != nil {
			return nil, err
		}
		if _, _, err := peers[1].ReadMessage(); err != nil {
			return nil, err
		}
		latencies = append(latencies, time.Since(began))
	}
	return latencies, nil
}

// startChild starts the child process and waits until it sends. stop ends it.
func startChild(url string, members int) (stop func(), err error) {
	command := exec.Command(os.Args[0], "-child", url, "-members", strconv.Itoa(members))
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		return nil, err
	}
	return func() { _ = in.Close(); _ = command.Wait() }, nil
}

// flood sends until the standard input ends.
func flood(url string, members int) error {
	topic, kind := "room=flood", "publish_room"
	if members > 1 {
		topic, kind = "channel=flood", "publish"
	}
	connect := func(query string) (net.Conn, error) {
		ws, _, err := gorilla.DefaultDialer.Dial(url+"/?"+query, nil)
		if err != nil {
			return nil, err
		}
		nc := ws.NetConn()
		go func() { _, _ = io.Copy(io.Discard, nc) }() // ends with the process
		return nc, nil
	}
	for range members {
		if _, err := connect(topic); err != nil {
			return err
		}
	}
	sender, err := connect("")
	if members == 1 {
		sender, err = connect(topic) // a room of two
	}
	if err != nil {
		return err
	}
	payload := `{"type":"` + kind + `","channel":"flood","data":"` + strings.Repeat("x", 80) + `"}`
	frame := append(binary.BigEndian.AppendUint16([]byte{0x81, 0x80 | 126}, uint16(len(payload))), 0, 0, 0, 0)
	chunk := bytes.Repeat(append(frame, payload...), 50)
	go func() { // ends with the process
		for {
			if _, err := sender.Write(chunk); err != nil {
				return
			}
		}
	}()
	fmt.Println()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// processorTime returns the processor time of this process.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		log.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
