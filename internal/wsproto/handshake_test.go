package wsproto_test

import (
	"encoding/base64"
	"math"
	"strings"
	"testing"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
	"github.com/stretchr/testify/require"
)

func TestValidVersion(t *testing.T) {
	t.Parallel()
	require.True(t, wsproto.ValidVersion([]string{"13"}))
	for _, lines := range [][]string{nil, {}, {""}, {"8"}, {"13, 8"}, {"13", "13"}, {" 13"}} {
		require.False(t, wsproto.ValidVersion(lines), "%q", lines)
	}
}

// keys are Sec-WebSocket-Keys and whether they are valid. The first is RFC 6455's
// own (section 1.3).
var keys = map[string]bool{
	"dGhlIHNhbXBsZSBub25jZQ==":     true,
	"AAAAAAAAAAAAAAAAAAAAAA==":     true,
	"":                             false,
	"dGhlIHNhbXBsZSBub25jZQ":       false,
	"dGhlIHNhbXBsZSBub25jZQ=":      false,
	"dGhlIHNhbXBsZSBub25jZQ== ":    false,
	"dGhlIHNhbXBsZSBub25jZWQ=":     false, // 17 bytes
	"dGhlIHNhbXBsZSBub25jZSEh":     false, // 18 bytes
	"dGhlIHNhbXBsZSBub25j\nZQ=":    false,
	"dGhlIHNhbXBsZSBub25jZQ!=":     false,
	"----------------------==":     false, // base64url
	"dGhlIHNhbXBsZSBub25jZSBsb25n": false,
}

func TestValidKey(t *testing.T) {
	t.Parallel()
	for key, valid := range keys {
		require.Equal(t, valid, wsproto.ValidKey(key), "%q", key)
	}
}

func TestValidKeyDoesNotAllocate(t *testing.T) {
	require.Zero(t, testing.AllocsPerRun(100, func() { wsproto.ValidKey("dGhlIHNhbXBsZSBub25jZQ==") }))
}

func FuzzValidKey(f *testing.F) {
	for key := range keys {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		b, err := base64.StdEncoding.DecodeString(key)
		require.Equal(t, err == nil && len(b) == 16 && len(key) == 24, wsproto.ValidKey(key))
	})
}

func TestIsToken(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"json", "JSON", "v2.chat", "!#$%&'*+-.^_`|~", "0"} {
		require.True(t, wsproto.IsToken(s), s)
	}
	for _, s := range []string{"", "a b", "a,b", `a"b`, "a/b", "a;b", "a=b", "a\x00", "a\x7f", "é", "\xff"} {
		require.False(t, wsproto.IsToken(s), "%q", s)
	}
}

func TestListOf(t *testing.T) {
	t.Parallel()
	require.Nil(t, wsproto.ListOf(nil))
	require.Nil(t, wsproto.ListOf([]string{"", " , ,"}))
	require.Equal(t, []string{"json", "protobuf", "json"}, wsproto.ListOf([]string{" json,,\tprotobuf ", "json"}))
}

func FuzzListOf(f *testing.F) {
	f.Add("json, protobuf", "msgpack")
	f.Add(" , ,", "")
	f.Fuzz(func(t *testing.T, first, second string) {
		list := wsproto.ListOf([]string{first, second})
		require.Equal(t, list, append(wsproto.ListOf([]string{first}), wsproto.ListOf([]string{second})...), "lines are independent")
		require.Equal(t, list, wsproto.ListOf([]string{strings.Join(list, ", ")}))
		for _, element := range list {
			require.NotEmpty(t, element)
			require.NotContains(t, element, ",")
			require.Equal(t, strings.TrimSpace(element), element)
		}
	})
}

const deflate = "permessage-deflate"

// offers are header lines and whether they have an offer that is accepted. The hub's
// conformance tests have more.
var offers = []struct {
	line     string
	accepted bool
}{
	{"", false},
	{"x-webkit-deflate-frame", false},
	{deflate + "2", false},
	{"Permessage-Deflate", false},
	{deflate, true},
	{" \t" + deflate + " ;  client_max_window_bits  ", true},
	{deflate + "; server_no_context_takeover; client_no_context_takeover; client_max_window_bits=12", true},
	{deflate + "; server_no_context_takeover=1", false},
	{deflate + "; client_no_context_takeover=", false},
	{deflate + "; server_max_window_bits", false},
	{deflate + "; server_max_window_bits=15", false},
	{deflate + `; client_max_window_bits="8"`, true},
	{deflate + `; client_max_window_bits="8`, false},
	{deflate + "; client_max_window_bits=7", false},
	{deflate + "; client_max_window_bits=16", false},
	{deflate + "; client_max_window_bits=09", false},
	{deflate + "; client_max_window_bits; client_max_window_bits", false},
	{deflate + "; ", false},
	{deflate + "; mystery, " + deflate, true},
	{`x-other; a="b, ` + deflate + `, c"`, false},
	{`x-other; a="b\", ` + deflate + `, \"c"`, false},
	{`x-other; a="\"", ` + deflate, true},
	{`x-other; a="b\\", ` + deflate, true},
	{`x-other; a="; ", ` + deflate, true},
	{deflate + `, x-other; a="`, false},
	{deflate + `, x-other; a="\`, false},
}

func TestDeflateOffered(t *testing.T) {
	t.Parallel()
	require.False(t, wsproto.DeflateOffered(nil))
	for _, tt := range offers {
		require.Equal(t, tt.accepted, wsproto.DeflateOffered([]string{tt.line}), "%q", tt.line)
		require.True(t, wsproto.DeflateOffered([]string{tt.line, deflate}), "%q", tt.line)
	}
}

func FuzzDeflateOffered(f *testing.F) {
	for _, tt := range offers {
		f.Add(tt.line, deflate)
		f.Add(tt.line, tt.line)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		a, b := wsproto.DeflateOffered([]string{first}), wsproto.DeflateOffered([]string{second})
		require.Equal(t, a || b, wsproto.DeflateOffered([]string{first, second}), "lines are independent")
		if a {
			require.Contains(t, first, deflate)
			require.True(t, wsproto.DeflateOffered([]string{deflate + "; mystery," + first}), "offers are independent")
			if b {
				require.True(t, wsproto.DeflateOffered([]string{first + "," + second}))
			}
		}
		if !strings.ContainsAny(first, `"`) {
			accepted := false
			for _, offer := range wsproto.ListOf([]string{first}) {
				accepted = accepted || wsproto.DeflateOffered([]string{offer})
			}
			require.Equal(t, accepted, a, "without quotes a comma always separates")
		}
	})
}

func TestWireLimit(t *testing.T) {
	t.Parallel()
	require.EqualValues(t, 256, wsproto.WireLimit(0))
	require.EqualValues(t, 64<<10+64+256, wsproto.WireLimit(64<<10))
	require.EqualValues(t, math.MaxInt64, wsproto.WireLimit(math.MaxInt64))
	require.EqualValues(t, math.MaxInt64, wsproto.WireLimit(math.MaxInt64-256))
}
