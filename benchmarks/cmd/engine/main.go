// Command engine runs the engine of a cluster: a NATS server in this process, or
// redis-server in a process of its own. Its control function tells what the engine has done.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/child"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/usage"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

// startTime is how long an engine may take to start.
const startTime = 10 * time.Second

func run() error {
	kind := flag.String("kind", "redis", "redis or nats")
	dir := flag.String("dir", "", "directory for the engine's files")
	flag.Parse()
	start := startRedis
	if *kind == "nats" {
		start = startNATS
	}
	url, done, stop, err := start(*dir)
	if err != nil {
		return err
	}
	defer stop()
	control, err := child.Listen()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	child.Handle(mux, "/done", func(context.Context, struct{}) (api.Engine, error) { return done() })
	failed := make(chan error, 2) // each of the two goroutines sends at most once; they end with the process
	go func() {
		failed <- (&http.Server{Handler: mux, ReadHeaderTimeout: 30 * time.Second}).Serve(control)
	}()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // any failure means that the driver has exited
		failed <- nil
	}()
	if err := child.PrintReady(api.Ready{Control: control.Addr().String(), WS: url}); err != nil {
		return err
	}
	select {
	case err = <-failed:
	case <-time.After(child.Lifetime):
		err = errors.New("the driver did not end this process")
	}
	return err
}

// startNATS starts a server with JetStream, which stores in files.
func startNATS(dir string) (url string, done func() (api.Engine, error), stop func(), err error) {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return "", nil, nil, err
	}
	s.Start()
	if !s.ReadyForConnections(startTime) {
		return "", nil, nil, errors.New("the NATS server does not start")
	}
	done = func() (e api.Engine, err error) {
		v, err := s.Varz(nil)
		if err != nil {
			return e, err
		}
		u := usage.CPU()
		return api.Engine{CPU: u.CPU(), Commands: uint64(v.InMsgs), In: uint64(v.InBytes), Out: uint64(v.OutBytes)}, nil
	}
	return s.ClientURL(), done, s.Shutdown, nil
}

// startRedis starts redis-server, which stores in memory only.
func startRedis(dir string) (url string, done func() (api.Engine, error), stop func(), err error) {
	l, err := child.Listen()
	if err != nil {
		return "", nil, nil, err
	}
	addr := l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir)
	if err := cmd.Start(); err != nil {
		return "", nil, nil, fmt.Errorf("%w (Debian package redis-server)", err)
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	for end := time.Now().Add(startTime); ; time.Sleep(10 * time.Millisecond) {
		if _, err = redisDone(addr); err == nil {
			return "redis://" + addr, func() (api.Engine, error) { return redisDone(addr) }, stop, nil
		}
		if time.Now().After(end) {
			stop()
			return "", nil, nil, err
		}
	}
}

// redisDone asks the server with INFO.
func redisDone(addr string) (e api.Engine, err error) {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return e, err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "INFO everything\r\n"); err != nil {
		return e, err
	}
	in := bufio.NewReader(c)
	head, err := in.ReadString('\n')
	if err != nil {
		return e, err
	}
	size, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(head, "$")))
	if err != nil || size > 1<<20 {
		return e, fmt.Errorf("redis-server: %q", head)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(in, text); err != nil {
		return e, err
	}
	return redisEngine(string(text))
}

// redisEngine decodes the reply to INFO.
func redisEngine(info string) (e api.Engine, err error) {
	fields := map[string]float64{
		"used_cpu_user": -1, "used_cpu_sys": -1, "total_commands_processed": -1, "total_net_input_bytes": -1, "total_net_output_bytes": -1,
	}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if _, wanted := fields[name]; wanted {
			if fields[name], err = strconv.ParseFloat(value, 64); err != nil {
				return e, err
			}
		}
	}
	for name, value := range fields {
		if value < 0 {
			return e, fmt.Errorf("redis-server does not tell %s", name)
		}
	}
	return api.Engine{
		CPU:      int64((fields["used_cpu_user"] + fields["used_cpu_sys"]) * 1e9),
		Commands: uint64(fields["total_commands_processed"]),
		In:       uint64(fields["total_net_input_bytes"]), Out: uint64(fields["total_net_output_bytes"]),
	}, nil
}
