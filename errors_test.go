package websocket_test

import (
	"errors"
	"fmt"
	"testing"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestCloseStatus(t *testing.T) {
	require.Equal(t, -1, websocket.CloseStatus(nil))
	require.Equal(t, -1, websocket.CloseStatus(errors.New("other")))
	require.Equal(t, 1013, websocket.CloseStatus(fmt.Errorf("wrapped: %w", &websocket.CloseError{Code: 1013})))
}
