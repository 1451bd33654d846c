package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
)

// front returns the handler of the front: a reverse proxy that sends each request to the
// next node that accepts it, so a client is not bound to a node; and /control,
// with which the page starts and ends servers. Whoever reaches the front may do that,
// which is for a demonstration only.
func (c *cluster) front() http.Handler {
	transport := &http.Transport{
		DisableKeepAlives: true, // a new connection for each request, so that the nodes take turns
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			first := int(c.turn.Add(1))
			var failed error
			for i := range c.nodes {
				conn, err := new(net.Dialer).DialContext(ctx, network, c.nodes[(first+i)%len(c.nodes)].addr())
				if err == nil {
					return conn, nil
				}
				failed = errors.Join(failed, err)
			}
			return nil, failed
		},
	}
	proxy := &httputil.ReverseProxy{
		Transport: nextNode{transport, len(c.nodes)},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "cluster"})
			r.Out.Host = r.In.Host // the hub compares it with the Origin header
			r.SetXForwarded()
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, fmt.Sprint("no node accepts the request: ", err), http.StatusServiceUnavailable)
		},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /control", c.showServers)
	mux.Handle("POST /control", http.NewCrossOriginProtection().Handler(http.HandlerFunc(c.control)))
	mux.Handle("/", proxy)
	return mux
}

// nextNode is a transport that asks another node if one responds with 503, as a node that
// drains does.
type nextNode struct {
	transport *http.Transport
	nodes     int
}

// RoundTrip implements http.RoundTripper.
func (n nextNode) RoundTrip(r *http.Request) (*http.Response, error) {
	for range n.nodes - 1 {
		response, err := n.transport.RoundTrip(r)
		if err != nil || response.StatusCode != http.StatusServiceUnavailable || r.Method != http.MethodGet {
			return response, err
		}
		_ = response.Body.Close() // the response is not used
	}
	return n.transport.RoundTrip(r)
}

// showServers responds with the state of every server.
func (c *cluster) showServers(w http.ResponseWriter, _ *http.Request) {
	type row struct {
		Name  string `json:"name"`
		URL   string `json:"url"`
		State string `json:"state"`
	}
	var rows []row
	for _, s := range c.servers() {
		rows = append(rows, row{s.name, s.url, s.state()})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(rows) // fails only if the page has disconnected
}

// control runs a command, as in /control?command=kill&name=engine.
func (c *cluster) control(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if err := c.run(query.Get("command"), query.Get("name")); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
