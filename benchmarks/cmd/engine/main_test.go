package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
)

func TestRedisEngine(t *testing.T) {
	t.Parallel()
	info := "# Stats\r\ntotal_commands_processed:12\r\ntotal_net_input_bytes:300\r\ntotal_net_output_bytes:4000\r\n" +
		"# CPU\r\nused_cpu_sys:0.5\r\nused_cpu_user:1.25\r\nused_cpu_user_children:9\r\n"
	e, err := redisEngine(info)
	require.NoError(t, err)
	require.Equal(t, api.Engine{CPU: 1_750_000_000, Commands: 12, In: 300, Out: 4000}, e)
	_, err = redisEngine("used_cpu_user:1\r\n")
	require.ErrorContains(t, err, "does not tell")
}
