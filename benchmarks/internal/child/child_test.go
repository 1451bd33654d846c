package child_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/child"
)

// TestMain acts as a child process if a test has started this binary as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "serve":
			serve()
		case "fail":
			fmt.Fprintln(os.Stderr, "cannot start")
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func serve() {
	child.ExitWithParent()
	l, err := child.Listen()
	if err != nil {
		os.Exit(1)
	}
	mux := http.NewServeMux()
	child.Handle(mux, "/double", func(_ context.Context, n int) (int, error) {
		if n < 0 {
			return 0, errors.New("negative")
		}
		return 2 * n, nil
	})
	if err := child.PrintReady(api.Ready{Control: l.Addr().String()}); err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(l, mux))
}

func TestProcess(t *testing.T) {
	t.Parallel()
	p, err := child.Start(t.Context(), os.Args[0], "serve")
	require.NoError(t, err)
	var n int
	require.NoError(t, p.Call(t.Context(), "/double", 21, &n))
	require.Equal(t, 42, n)
	require.ErrorContains(t, p.Call(t.Context(), "/double", -1, &n), "negative")

	began := time.Now()
	p.Stop() // closes the child's standard input, as the exit of a driver does
	require.Less(t, time.Since(began), 3*time.Second, "Stop had to kill the child")
	require.Error(t, p.Call(t.Context(), "/double", 1, &n))
}

func TestStartReportsStandardError(t *testing.T) {
	t.Parallel()
	_, err := child.Start(t.Context(), os.Args[0], "fail")
	require.ErrorContains(t, err, "cannot start")
}
