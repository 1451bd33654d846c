// Package examples has example programs in its subdirectories. Its test builds the
// code samples of the README and of the documents.
package examples

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var goBlock = regexp.MustCompile("(?ms)^```go\n(.*?)^```")

// fragment is a program around a sample that is not a whole program. It declares the
// names that the sample uses.
const fragment = `package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"expvar"
	"log"
	"log/slog"
	"net/http"
	"sync"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

var (
	_ client.Client
	_ = errors.New
	_ = expvar.NewMap
	_ = bytes.ToLower
	_ = rand.Text
	_ http.Handler
	_ sync.Map
	_ time.Duration
)

// The application's own names.
type myCodec struct{ websocket.JSONCodec }

func userOf(token string) (string, error)       { return token, nil }
func mayUse(user, target string) (bool, error) { return user == target, nil }

func sample(ctx context.Context, hub *websocket.Hub, mux *http.ServeMux, %s logger *slog.Logger, aesKey, hmacKey []byte) error {
	log.SetFlags(0)
	{
		%s
		_ = hub
	}
	return nil
}

func main() {}
`

func TestReadmeSamplesBuild(t *testing.T)        { samplesBuild(t, "../README.md") }
func TestConfigurationSamplesBuild(t *testing.T) { samplesBuild(t, "../docs/configuration.md") }
func TestHypGoSamplesBuild(t *testing.T)         { samplesBuild(t, "../docs/hypgo.md") }

// samplesBuild builds the samples of a document, except those that import HypGo.
func samplesBuild(t *testing.T, path string) {
	t.Parallel()
	document, err := os.ReadFile(path)
	require.NoError(t, err)
	dir := t.TempDir()
	blocks := goBlock.FindAllStringSubmatch(string(document), -1)
	require.NotEmpty(t, blocks)
	for i, block := range blocks {
		source := block[1]
		if strings.Contains(source, "github.com/maoxiaoyue/hypgo/") {
			continue // not a dependency
		}
		if !strings.HasPrefix(source, "package ") {
			source = fmt.Sprintf(fragment, clientParameter(source), source)
		}
		name := fmt.Sprintf("sample%d.go", i)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(source), 0o600))
		out, err := exec.CommandContext(t.Context(), "go", "build", "-o", os.DevNull, filepath.Join(dir, name)).CombinedOutput()
		require.NoError(t, err, "%s\n%s", out, block[1])
	}
}

// clientParameter returns the declaration of a parameter named client. It is empty
// for samples of Go clients, in which client is the package.
func clientParameter(source string) string {
	if strings.Contains(source, "client.Dial(") {
		return ""
	}
	return "client *websocket.Client,"
}
