// Command cluster runs a chat room on three nodes. A node is a hub in a process of its
// own, with an address of its own. An engine connects the nodes and keeps the room's
// history: a NATS server in another process, which stores in a folder. A reverse proxy,
// the front, spreads connections over the nodes. Nothing has to be installed:
//
//	go run .
//
// Open http://localhost:8080 in several tabs. A tab may also use one node, such as
// http://localhost:8081. It shows the room's latest messages and its members on all
// nodes. When a node ends, its tabs move to another one and miss nothing. Try it with the
// buttons of the page, or with commands:
//
//	stop 2         the node drains, which sends its tabs to other nodes, and ends
//	kill 2         the node's process is killed
//	kill engine    nothing can be published until "start engine"
//	start 2
//	list
//
// After a restart of the whole program the history is still there. With -engine the
// nodes use a server that runs already, for example -engine redis://localhost:6379.
//
// "cluster node" runs one node, for a cluster on several machines: see its flags with -h.
// Every flag can be set by an environment variable instead, which is how a node is
// configured in a container. Two nodes on one machine, with Redis:
//
//	export CLUSTER_ENGINE=redis://localhost:6379 CLUSTER_SECRET=$(openssl rand -hex 32)
//	CLUSTER_ADDR=localhost:8081 go run . node &
//	CLUSTER_ADDR=localhost:8082 go run . node &
//
//	CLUSTER_ADDR       address of the node, as browsers find it
//	CLUSTER_ENGINE     nats://... or redis://...
//	CLUSTER_SECRET     64 hexadecimal digits, the same for all nodes
//	CLUSTER_ANNOUNCE   time between announcements, 1s
//	CLUSTER_WINDOW     time over which a node that ends sends its tabs away, 10s
//	CLUSTER_PROXIES    addresses of reverse proxies, separated by commas
//
// A node drains when it gets SIGTERM. It has Prometheus metrics at /metrics, and health
// checks at /live and /ready. Serve these three to the operators only.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

func main() {
	switch err := run(os.Args[1:]); {
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// errUsage means that the command line is wrong and that the user has been told.
var errUsage = errors.New("wrong usage")

func run(args []string) error {
	command := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		command, args = args[0], args[1:]
	}
	switch command {
	case "":
		return clusterCommand(args)
	case "node":
		return nodeCommand(args)
	case "engine":
		return engineCommand(args)
	}
	fmt.Fprintf(os.Stderr, "cluster: there is no command %q; use -h for help\n", command)
	return errUsage
}

// environment begins the names of the environment variables that set flags.
const environment = "CLUSTER_"

// parse parses the flags, for which environment variables are the defaults. check returns
// the first problem of their values, or "".
func parse(flags *flag.FlagSet, args []string, check func() string) error {
	var invalid string
	flags.VisitAll(func(f *flag.Flag) {
		name := environment + strings.ToUpper(f.Name)
		if v := os.Getenv(name); v != "" && f.Name != "child" {
			if err := flags.Set(f.Name, v); err != nil {
				invalid = fmt.Sprintf("%s=%q: %v", name, v, err)
			}
		}
	})
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0) // flags has printed the help
	}
	if err != nil {
		return errUsage // flags has printed the error
	}
	problem := cmp.Or(invalid, check())
	if flags.NArg() > 0 {
		problem = fmt.Sprintf("unexpected argument %q", flags.Arg(0))
	}
	if problem == "" {
		return nil
	}
	fmt.Fprintf(flags.Output(), "%s: %s; use -h for help\n", flags.Name(), problem)
	return errUsage
}

func clusterCommand(args []string) error {
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	o := options{log: os.Stderr}
	addr := flags.String("addr", "localhost:8080", "address of the front, `host:port`; the nodes use the ports behind it")
	flags.IntVar(&o.nodes, "nodes", 3, "`number` of nodes, 1 to 9")
	flags.StringVar(&o.dir, "dir", "cluster-data", "`folder` in which the NATS server stores")
	flags.StringVar(&o.engine, "engine", "", "`URL` of a running engine, nats://... or redis://...; without it a NATS server is started")
	flags.DurationVar(&o.announce, "announce", time.Second, "time between announcements of a node; when it has missed three, its members leave")
	flags.DurationVar(&o.window, "window", 2*time.Second, "time over which a node that stops sends its tabs away")
	err := parse(flags, args, func() string {
		switch {
		case o.nodes < 1 || o.nodes > 9:
			return "-nodes must be 1 to 9"
		case o.dir == "" && o.engine == "":
			return "-dir must not be empty"
		case o.announce < 10*time.Millisecond:
			return "-announce must be at least 10ms"
		case o.window < 0 || o.window > stopTime/2:
			return fmt.Sprintf("-window must be at most %v", stopTime/2)
		}
		return errorText(checkAddr(*addr), checkEngine(o.engine))
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl+C ends the process at once, and with it the others
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	o.host, _, _ = net.SplitHostPort(*addr) // checkAddr has accepted it
	o.port = listener.Addr().(*net.TCPAddr).Port
	c, err := newCluster(o)
	if err != nil {
		_ = listener.Close()
		return err
	}
	fmt.Printf("chat on http://%s:%d; press Ctrl+C to stop\n", bracketed(o.host), o.port)
	c.list(os.Stdout)
	fmt.Println("commands: \"stop 1\", \"kill 1\", \"start 1\" for nodes and engine, \"list\"")
	go c.runCommands(os.Stdin, os.Stdout) // ends with the process
	return c.serve(ctx, listener)
}

func nodeCommand(args []string) error {
	flags := flag.NewFlagSet("cluster node", flag.ContinueOnError)
	var o nodeOptions
	flags.StringVar(&o.addr, "addr", "localhost:8090", "address of the node, `host:port`, as browsers find it; it is also the node's name")
	flags.StringVar(&o.engine, "engine", "", "`URL` of the engine, nats://... or redis://...")
	flags.DurationVar(&o.announce, "announce", time.Second, "time between announcements, the same for all nodes")
	flags.DurationVar(&o.window, "window", 10*time.Second, "time over which the node sends its tabs away when it ends")
	proxies := flags.String("proxies", "", "`addresses` of reverse proxies, separated by commas")
	child := flags.Bool("child", false, "end with the standard input; the cluster sets it")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "Usage of cluster node:")
		flags.PrintDefaults()
		fmt.Fprintf(flags.Output(), "The environment variable %s has the secret of all nodes, 64 hexadecimal digits.\n", secretVariable)
		fmt.Fprintf(flags.Output(), "Environment variables set flags too: %sENGINE is -engine.\n", environment)
	}
	err := parse(flags, args, func() string {
		switch {
		case o.engine == "":
			return "-engine is missing"
		case o.announce < 10*time.Millisecond:
			return "-announce must be at least 10ms"
		case o.window < 0:
			return "-window must not be negative"
		}
		if *proxies != "" {
			o.proxies = strings.Split(*proxies, ",")
		}
		config := websocket.Config{TrustedProxies: o.proxies}
		return errorText(checkAddr(o.addr), checkEngine(o.engine), config.Validate())
	})
	if err != nil {
		return err
	}
	ctx, stop := lifetime(*child)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	return runNode(ctx, o)
}

func engineCommand(args []string) error {
	flags := flag.NewFlagSet("cluster engine", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:4222", "address of the NATS server, `host:port`")
	dir := flags.String("dir", "cluster-data", "`folder` in which the server stores")
	child := flags.Bool("child", false, "end with the standard input; the cluster sets it")
	if err := parse(flags, args, func() string { return errorText(checkAddr(*listen)) }); err != nil {
		return err
	}
	ctx, stop := lifetime(*child)
	defer stop()
	return runEngine(ctx, *listen, *dir)
}

// lifetime returns a context that ends with Ctrl+C. For a child of the cluster it ends
// with the standard input instead: a child ends when the cluster closes it, in an order
// that the cluster chooses, and when the cluster's process has been killed.
func lifetime(child bool) (context.Context, context.CancelFunc) {
	if !child {
		return signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	}
	signal.Ignore(syscall.SIGINT) // a terminal sends Ctrl+C to all processes
	ctx, end := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // returns when the cluster closes it
		end()
	}()
	return ctx, end
}

// checkAddr returns an error for an address without a host that browsers can find.
func checkAddr(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return fmt.Errorf("address %s: the host is missing, by which browsers find the node", addr)
	}
	return nil
}

// bracketed returns a host as it stands in URLs.
func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// errorText returns the text of the first error, or "".
func errorText(errs ...error) string {
	for _, err := range errs {
		if err != nil {
			return err.Error()
		}
	}
	return ""
}
