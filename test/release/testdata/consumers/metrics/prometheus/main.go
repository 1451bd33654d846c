// A hub whose statistics are collected once.
package main

import (
	"fmt"
	"log"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	wsprometheus "github.com/maoxiaoyue/hypgo-websocket/metrics/prometheus"
	"github.com/prometheus/client_golang/prometheus"
)

func main() {
	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	registry := prometheus.NewRegistry()
	registry.MustRegister(wsprometheus.NewCollector(hub))
	families, err := registry.Gather()
	if err != nil || len(families) == 0 {
		log.Fatalf("%d metrics: %v", len(families), err)
	}
	fmt.Println("collected the metrics of a hub")
}
