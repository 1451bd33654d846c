package main

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRunPrintsReceivedMessages(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	require.NoError(t, run(ctx, "localhost:0", &out))
	require.Contains(t, out.String(), "TLS 1.3, subprotocol msgpack")
	require.Contains(t, out.String(), `opened: type ack, channel news`)
	require.Contains(t, out.String(), `opened: type message, channel news, data {"headline":"Sealed inside of TLS"}`)
}
