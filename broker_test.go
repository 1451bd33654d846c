package websocket_test

import (
	"context"
	"testing"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestBrokerConfig(t *testing.T) {
	config := websocket.DefaultConfig
	config.BrokerQueue = -1
	require.ErrorContains(t, config.Validate(), "Config.BrokerQueue")
	require.Equal(t, websocket.Health{Broker: websocket.BrokerNone}, websocket.NewHub(quietLogger{}, websocket.DefaultConfig).Health())
	require.NoError(t, websocket.NewHub(quietLogger{}, websocket.DefaultConfig).BrokerReady(context.Background()))
}
