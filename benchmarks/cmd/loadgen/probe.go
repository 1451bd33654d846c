package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/tally"
)

// probe measures the latency of requests to an HTTP handler on one connection.
func probe(ctx context.Context, p api.Probe) (res api.ProbeResult, err error) {
	if p.Interval <= 0 || p.Duration <= 0 || p.Duration > time.Minute {
		return res, errors.New("a probe needs a positive interval, and a duration of up to a minute")
	}
	client := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	if _, err := get(ctx, client, p.URL); err != nil { // connects
		return res, err
	}
	var hist tally.Histogram
	for end := time.Now().Add(p.Duration); time.Now().Before(end); time.Sleep(p.Interval) {
		took, err := get(ctx, client, p.URL)
		if err != nil {
			return res, err
		}
		hist.Record(int64(took))
	}
	return api.ProbeResult{Requests: hist.Count(), P50: hist.Quantile(0.5), P90: hist.Quantile(0.9), P99: hist.Quantile(0.99)}, nil
}

// get returns the time from the request to the end of the response.
func get(ctx context.Context, client *http.Client, url string) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	res, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }() // it was read to its end
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0, err
	}
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: %s", url, res.Status)
	}
	return time.Since(start), nil
}
