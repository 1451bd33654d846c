package jsonscan_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/internal/jsonscan"
	"github.com/maoxiaoyue/hypgo-websocket/internal/jsonscan/scantest"
)

func FuzzValid(f *testing.F) {
	for _, input := range scantest.Inputs() {
		if len(input) < 1000 {
			f.Add([]byte(input))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		require.Equal(t, validReference(data), jsonscan.Valid(data))
	})
}

func FuzzScanner(f *testing.F) {
	for _, input := range scannerInputs() {
		if len(input) < 1000 {
			f.Add([]byte(input))
		}
	}
	f.Fuzz(requireLikeJSON)
}
