package websocket_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// refusedAddress returns the address that OnRefuse gets for a request.
func refusedAddress(t testing.TB, proxies []string, peer string, header http.Header) netip.Addr {
	t.Helper()
	var refused *websocket.Refusal
	config := websocket.DefaultConfig
	config.TrustedProxies = proxies
	config.OnRefuse = func(r websocket.Refusal) { refused = &r }
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://hub.test/", nil)
	require.NoError(t, err)
	r.RemoteAddr, r.Header = peer, header
	websocket.NewHub(quietLogger{}, config).Handler().ServeHTTP(newRecorder(), r)
	require.NotNil(t, refused)
	require.Equal(t, websocket.RefusedNotWebSocket, refused.Reason)
	return refused.RemoteAddr
}

func TestClientAddress(t *testing.T) {
	t.Parallel()
	const xff, forwarded = "X-Forwarded-For", "Forwarded"
	hops := strings.Repeat("10.0.0.1, ", 40)
	tests := []struct {
		peer   string
		header http.Header
		want   string // "" means that there is none
	}{
		// Without a proxy.
		{"192.0.2.1:80", nil, "192.0.2.1"},
		{"192.0.2.1", nil, "192.0.2.1"}, // middleware has set it
		{"[::ffff:192.0.2.1]:80", nil, "192.0.2.1"},
		{"[fe80::1%eth0]:80", nil, "fe80::1"},
		{"[2001:db8::1]:80", nil, "2001:db8::1"},
		{"192.0.2.1:80", http.Header{xff: {"198.51.100.1"}}, "192.0.2.1"}, // not trusted
		{"", http.Header{xff: {"198.51.100.1"}}, ""},                      // no address: not trusted
		{"@", nil, ""}, // Unix socket
		{"peer.test:1", nil, ""},
		{"[", nil, ""},
		{"[]", nil, ""},
		{"[192.0.2.1]", nil, ""},

		// X-Forwarded-For.
		{"10.0.0.1:80", nil, "10.0.0.1"},
		{"10.0.0.1:80", http.Header{xff: {"198.51.100.1"}}, "198.51.100.1"},
		{"[::ffff:10.0.0.1]:80", http.Header{xff: {"::ffff:198.51.100.1"}}, "198.51.100.1"},
		{"[2001:db8:1::5]:80", http.Header{xff: {"2001:db8::1"}}, "2001:db8::1"},
		{"192.0.2.7:80", http.Header{xff: {"198.51.100.1"}}, "198.51.100.1"},
		{"10.0.0.1:80", http.Header{xff: {"203.0.113.9, 198.51.100.1"}}, "198.51.100.1"}, // the first is forged
		{"10.0.0.1:80", http.Header{xff: {"203.0.113.9", "198.51.100.1"}}, "198.51.100.1"},
		{"10.0.0.1:80", http.Header{xff: {"203.0.113.9, 198.51.100.1,10.9.9.9 ,\t192.0.2.7"}}, "198.51.100.1"},
		{"10.0.0.1:80", http.Header{xff: {"203.0.113.9, 198.51.100.1", "10.9.9.9", "192.0.2.7"}}, "198.51.100.1"},
		{"10.0.0.1:80", http.Header{xff: {"198.51.100.1:4711"}}, "198.51.100.1"},
		{"10.0.0.1:80", http.Header{xff: {"[2001:db8::1]:4711"}}, "2001:db8::1"},
		{"10.0.0.1:80", http.Header{xff: {"[2001:db8::1]"}}, "2001:db8::1"},
		{"10.0.0.1:80", http.Header{xff: {"2001:db8::1%25"}}, "2001:db8::1"},
		{"10.0.0.1:80", http.Header{xff: {"10.0.0.3, 10.0.0.2"}}, "10.0.0.3"}, // all trusted
		{"10.0.0.1:80", http.Header{xff: {""}}, "10.0.0.1"},
		{"10.0.0.1:80", http.Header{xff: {"198.51.100.1, unknown"}}, "10.0.0.1"},
		{"10.0.0.1:80", http.Header{xff: {"198.51.100.1, 10.0.0.256, 10.0.0.2"}}, "10.0.0.2"},
		{"10.0.0.1:80", http.Header{xff: {"198.51.100.1,,10.0.0.2"}}, "10.0.0.2"},
		{"10.0.0.1:80", http.Header{xff: {"198.51.100.1," + strings.Repeat(" ", 2000)}}, "10.0.0.1"},
		{"10.0.0.1:80", http.Header{xff: {strings.Repeat(" ", 2000) + "198.51.100.1"}}, "198.51.100.1"},
		{"10.0.0.1:80", http.Header{xff: {"198.51.100.1, " + hops}}, "10.0.0.1"}, // empty at the end
		{"10.0.0.9:80", http.Header{xff: {"198.51.100.1, " + hops + "10.0.0.2"}}, "10.0.0.1"},
		{"10.0.0.1:80", http.Header{xff: {"198.51.100.1"}, forwarded: {"for=203.0.113.9"}}, "198.51.100.1"},
		{"10.0.0.1:80", http.Header{xff: {"unknown"}, forwarded: {"for=203.0.113.9"}}, "10.0.0.1"},

		// Forwarded.
		{"10.0.0.1:80", http.Header{forwarded: {"for=198.51.100.1"}}, "198.51.100.1"},
		{"10.0.0.1:80", http.Header{forwarded: {`For="198.51.100.1:4711"`}}, "198.51.100.1"},
		{"10.0.0.1:80", http.Header{forwarded: {`for="[2001:db8::1]:4711";proto=https`}}, "2001:db8::1"},
		{"10.0.0.1:80", http.Header{forwarded: {`for="[2001:db8::1]"`}}, "2001:db8::1"},
		{"10.0.0.1:80", http.Header{forwarded: {`proto=https; host="a.test:443"; FOR=198.51.100.1;by=10.0.0.1`}}, "198.51.100.1"},
		{"10.0.0.1:80", http.Header{forwarded: {`for=203.0.113.9, for=198.51.100.1, for=10.0.0.2`}}, "198.51.100.1"},
		{"10.0.0.1:80", http.Header{forwarded: {`for="`, "for=198.51.100.1"}}, "198.51.100.1"}, // an open quote forges nothing
		{"10.0.0.1:80", http.Header{forwarded: {`for=203.0.113.9;host="`, "for=198.51.100.1;proto=http"}}, "198.51.100.1"},
		{"10.0.0.1:80", http.Header{forwarded: {"for=unknown"}}, "10.0.0.1"},
		{"10.0.0.1:80", http.Header{forwarded: {"for=_hidden"}}, "10.0.0.1"},
		{"10.0.0.1:80", http.Header{forwarded: {"proto=https"}}, "10.0.0.1"},
		{"10.0.0.1:80", http.Header{forwarded: {"for=198.51.100.1;for=203.0.113.9"}}, "10.0.0.1"},
		{"10.0.0.1:80", http.Header{forwarded: {"198.51.100.1"}}, "10.0.0.1"},
		{"10.0.0.1:80", http.Header{forwarded: {`for=198.51.100.1;host="a,for=203.0.113.9"`}}, "10.0.0.1"}, // the client's Host has a comma
		{"10.0.0.1:80", http.Header{forwarded: {`for=198.51.100.1;host="a,for=203.0.113.9;b=\"c"`}}, "10.0.0.1"},
		{"10.0.0.1:80", http.Header{forwarded: {`for=198.51.100.1;host="a,for=203.0.113.9;b=\"c\""`}}, "10.0.0.1"},
		{"10.0.0.1:80", http.Header{forwarded: {`for=198.51.100.1;host="a,for=203.0.113.9;b="`}}, "10.0.0.1"},
		{"10.0.0.1:80", http.Header{forwarded: {`for=198.51.100.1;host="a,for=203.0.113.9,b"`}}, "10.0.0.1"},
	}
	proxies := []string{"10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48", "::ffff:192.0.2.8"}
	for _, tt := range tests {
		got := refusedAddress(t, proxies, tt.peer, tt.header)
		if tt.want == "" {
			require.Equal(t, netip.Addr{}, got, "%+v", tt)
		} else {
			require.Equal(t, netip.MustParseAddr(tt.want), got, "%+v", tt)
		}
	}
	require.Equal(t, netip.MustParseAddr("198.51.100.1"),
		refusedAddress(t, proxies, "192.0.2.8:80", http.Header{xff: {"198.51.100.1"}}))
}

// FuzzClientAddress checks that what stands before the element of a trusted proxy has no
// effect.
func FuzzClientAddress(f *testing.F) {
	f.Add("192.0.2.1", `for="`, true)
	f.Add("10.0.0.1, unknown", `for=10.0.0.1;host="a,`, false)
	f.Fuzz(func(t *testing.T, xff, forwarded string, split bool) {
		proxies := []string{"10.0.0.0/8"}
		lines := func(client, proxy string) []string {
			if split {
				return []string{client, proxy}
			}
			return []string{client + ", " + proxy}
		}
		want := netip.MustParseAddr("198.51.100.1")
		header := http.Header{"X-Forwarded-For": lines(xff, "198.51.100.1"), "Forwarded": {forwarded}}
		require.Equal(t, want, refusedAddress(t, proxies, "10.0.0.1:80", header))
		header = http.Header{"Forwarded": lines(forwarded, `for="198.51.100.1:1";proto=http`)}
		require.Equal(t, want, refusedAddress(t, proxies, "10.0.0.1:80", header))
		for _, header := range []http.Header{{"X-Forwarded-For": {xff}}, {"Forwarded": {forwarded}}} {
			got := refusedAddress(t, proxies, "10.0.0.1:80", header)
			require.True(t, got.IsValid())
			require.Equal(t, got.Unmap().WithZone(""), got)
		}
		if got := refusedAddress(t, proxies, xff, nil); got.IsValid() {
			require.Equal(t, got.Unmap().WithZone(""), got)
		}
	})
}

func TestTrustedProxiesAreChecked(t *testing.T) {
	t.Parallel()
	for entry, want := range map[string]string{
		"":                    "want an IP address or a prefix",
		"proxy.internal":      "want an IP address or a prefix",
		"10.0.0.0/33":         "want an IP address or a prefix",
		"10.0.0.1:80":         "want an IP address or a prefix",
		"10.0.0.7/8":          "it has bits behind its length: want 10.0.0.0/8, or 10.0.0.7 for one address",
		"fe80::1%eth0":        "write it without the zone",
		"::ffff:10.0.0.0/104": "write it as a prefix of IPv4",
	} {
		config := websocket.DefaultConfig
		config.TrustedProxies = []string{"10.0.0.1", entry}
		require.ErrorContains(t, config.Validate(), fmt.Sprintf("websocket: Config.TrustedProxies has %q: %s", entry, want))
	}
}

// TestRemoteAddr connects through a proxy's address.
func TestRemoteAddr(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.TrustedProxies = []string{"127.0.0.1"}
	b := setup(t, config, options{})
	p, c := b.connect(t, dialing{header: http.Header{"X-Forwarded-For": {"203.0.113.9, 198.51.100.1"}}})
	require.Equal(t, netip.MustParseAddr("198.51.100.1"), c.RemoteAddr())
	p.closeCleanly(t)
	require.Same(t, c, b.disconnected.take(t))
	require.Equal(t, netip.MustParseAddr("198.51.100.1"), c.RemoteAddr())

	_, c = b.connect(t, dialing{})
	require.Equal(t, netip.MustParseAddr("127.0.0.1"), c.RemoteAddr())

	b.handshake(t, "", http.Header{"X-Forwarded-For": {"198.51.100.2"}, "Origin": {"https://evil.test"}})
	require.Len(t, b.logs.matching("warning", `status=403 reason=origin address="198.51.100.2" `), 1)
}

// A client without an address is accepted, and is not limited.
func TestClientWithoutAddress(t *testing.T) {
	config := websocket.DefaultConfig
	config.TrustedProxies = []string{"0.0.0.0/0", "::/0"}
	config.MaxClientsPerAddress = 1
	f := runFake(t, paths[0], config)
	for range 2 {
		server, client := testnet.Pair(1 << 10)
		server.SetRemoteAddr(&net.UnixAddr{Name: "@", Net: "unix"})
		served := f.accept(server)
		_, _, err := dialOver(client, http.Header{"X-Forwarded-For": {"198.51.100.1"}})
		require.NoError(t, err)
		<-served
	}
	for c := range f.Clients() {
		require.Equal(t, netip.Addr{}, c.RemoteAddr())
	}
	require.Zero(t, f.CountedAddresses())
	f.stop()
}

// TestMaxClientsPerAddress fills the limit of one address again and again, with handshakes
// and connections that end in different ways.
func TestMaxClientsPerAddress(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.TrustedProxies = []string{"127.0.0.1"}
	config.MaxClientsPerAddress = 2
	config.ClientID = func(r *http.Request) (string, error) {
		if r.URL.RawQuery == "panic" {
			panic("boom")
		}
		return "", nil
	}
	b := setup(t, config, options{logsError: true})
	from := func(address string) http.Header { return http.Header{"X-Forwarded-For": {address}} }
	for range 3 {
		var peers []*peer
		for _, address := range []string{"198.51.100.1", "2001:db8::1"} {
			for range 2 {
				p, _ := b.connect(t, dialing{header: from(address)})
				peers = append(peers, p)
			}
		}
		for _, address := range []string{"198.51.100.1", "2001:db8::2"} { // the second is of the same /64
			response := b.handshake(t, "", from(address))
			require.Equal(t, http.StatusTooManyRequests, response.StatusCode)
			require.Contains(t, bodyOf(t, response), "too many connections from this address")
		}
		p, _ := b.connect(t, dialing{header: from("2001:db8:0:1::1")}) // of another one
		peers = append(peers, p)
		for i, p := range peers {
			if i%2 == 0 {
				p.closeCleanly(t)
			} else {
				require.NoError(t, p.Close())
			}
			b.disconnected.take(t)
		}
		require.Eventually(t, func() bool { return b.hub.CountedAddresses() == 0 }, patience, time.Millisecond)
		for range 3 { // handshakes that fail
			require.Equal(t, 500, b.handshake(t, "panic", from("198.51.100.1")).StatusCode)
			require.Equal(t, 403, b.handshake(t, "", http.Header{"X-Forwarded-For": {"198.51.100.1"}, "Origin": {"https://evil.test"}}).StatusCode)
		}
	}
	require.Len(t, b.logs.matching("warning", "status=429 reason=address_limit"), 5) // of six: the log is limited
	require.NoError(t, b.hub.Shutdown(t.Context()))
	require.Zero(t, b.hub.CountedAddresses())
}
