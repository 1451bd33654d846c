package websocket_test

import (
	"errors"
	"fmt"
	"testing"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestCloseErrorText(t *testing.T) {
	broken := errors.New("connection reset")
	tests := []struct {
		e    websocket.CloseError
		want string
	}{
		{websocket.CloseError{Code: 1013, Reason: "too slow"}, "websocket: closed by this side: 1013 too slow"},
		{websocket.CloseError{Code: 1000, ByPeer: true}, "websocket: closed by peer: 1000"},
		{websocket.CloseError{Code: 1005, ByPeer: true}, "websocket: closed by peer: 1005 without a code"},
		{websocket.CloseError{Code: 1006, Reason: "connection reset", Err: broken}, "websocket: connection ended without a Close frame: 1006 connection reset"},
		{websocket.CloseError{Code: 1006}, "websocket: connection ended without a Close frame: 1006"},
		{websocket.CloseError{Code: 1000, ByPeer: true, Err: broken}, "websocket: closed by peer: 1000; not answered: connection reset"},
		{websocket.CloseError{Code: 1013, Reason: "too slow", Err: broken}, "websocket: closed by this side: 1013 too slow; without a Close frame: connection reset"},
	}
	for _, tt := range tests {
		require.EqualError(t, &tt.e, tt.want)
	}
}

func TestCloseStatus(t *testing.T) {
	require.Equal(t, -1, websocket.CloseStatus(nil))
	require.Equal(t, -1, websocket.CloseStatus(errors.New("other")))
	require.Equal(t, 1013, websocket.CloseStatus(fmt.Errorf("wrapped: %w", &websocket.CloseError{Code: 1013})))
}
