package client_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/client"
)

func TestReconnectable(t *testing.T) {
	t.Parallel()
	yes := map[int]bool{1001: true, 1005: true, 1006: true, 1011: true, 1012: true, 1013: true, 3008: true}
	for code := 999; code <= 5000; code++ {
		require.Equal(t, yes[code], client.Reconnectable(code), code)
	}
}
