package websocket

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// Limits for the header fields in which proxies name the sender of a request. The walk
// ends at the first address that is not a trusted proxy's, so only requests through more
// proxies than maxHops reach them.
const (
	maxHops          = 32
	maxForwardedPart = 1 << 10 // bytes of one element of a list
)

// RemoteAddr returns the address of the client, for logs and limits. It is the address of
// the connection's peer or, if that is one of Config.TrustedProxies, the address that the
// proxies name. It returns the zero Addr if the address is not known, for example on a
// Unix socket. An IPv4 address is never in the form of IPv6, and an address has no zone.
//
// An address proves nothing: many people share one behind NAT, and one person may have
// many. RemoteAddr may be called at any time, also after the connection has ended.
func (c *Client) RemoteAddr() netip.Addr { return c.hub.clientAddress(c.addressed()) }

// clientAddress returns the address of the client that sent r; see Client.RemoteAddr.
//
// A proxy appends the address of its peer to X-Forwarded-For, so the list is read from its
// end for as long as the address found so far is a trusted proxy's. The elements
// before that were written by the client. An element without an address ends the walk: the
// trusted proxy that added it counts as the client.
func (h *Hub) clientAddress(r *http.Request) netip.Addr {
	addr := parseAddr(r.RemoteAddr)
	if !h.trusted(addr) {
		return addr
	}
	// Only one of the two fields counts. A proxy leaves the other as the client wrote it.
	lines, parse := r.Header["X-Forwarded-For"], parseAddr
	if len(lines) == 0 {
		lines, parse = r.Header["Forwarded"], forwardedFor
	}
	list := listFromEnd{lines: lines}
	for range maxHops {
		element, ok := list.next()
		if !ok {
			break
		}
		next := parse(element)
		if !next.IsValid() {
			break
		}
		if addr = next; !h.trusted(addr) {
			break
		}
	}
	return addr
}

// addressText returns the address of the client that sent r for the log, or the server's
// RemoteAddr if that contains no address.
func (h *Hub) addressText(r *http.Request) string {
	if addr := h.clientAddress(r); addr.IsValid() {
		return addr.String()
	}
	return r.RemoteAddr
}

// addressed returns a request with the fields that clientAddress reads.
func (c *Client) addressed() *http.Request {
	if len(c.hub.proxies) == 0 {
		return c.kept.base
	}
	return c.Request()
}

// trusted reports whether addr is one of Config.TrustedProxies.
func (h *Hub) trusted(addr netip.Addr) bool {
	for _, p := range h.proxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// listFromEnd reads the elements of a header field that is a list, the last one first.
type listFromEnd struct {
	lines []string // not read yet
	rest  string   // of the line that is being read
	open  bool     // rest is a part of the list, even if it is empty
}

// next returns the last element that it has not returned yet. Its length is bounded: a
// longer one is returned in part.
func (l *listFromEnd) next() (element string, ok bool) {
	if !l.open {
		if len(l.lines) == 0 {
			return "", false
		}
		last := len(l.lines) - 1
		l.rest, l.lines, l.open = l.lines[last], l.lines[:last], true
	}
	from := max(len(l.rest)-maxForwardedPart, 0)
	comma := strings.LastIndexByte(l.rest[from:], ',')
	element = l.rest[from+comma+1:]
	if comma < 0 {
		l.rest, l.open = "", false
	} else {
		l.rest = l.rest[:from+comma]
	}
	return strings.Trim(element, " \t"), true
}

// parseAddr returns the address in s, which may have a port. It returns the zero Addr if
// there is none.
func parseAddr(s string) netip.Addr {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		if withPort, err := netip.ParseAddrPort(s); err == nil {
			addr = withPort.Addr()
		} else if len(s) > 1 && s[0] == '[' && s[len(s)-1] == ']' {
			if addr, err = netip.ParseAddr(s[1 : len(s)-1]); err != nil || !addr.Is6() {
				return netip.Addr{}
			}
		}
	}
	return addr.Unmap().WithZone("")
}

// forwardedFor returns the address of the "for" parameter of an element of the Forwarded
// field (RFC 7239 section 4), or the zero Addr.
//
// The list was split at every comma. A comma in a quoted string makes an element end
// within the quotes. It then has a quote or a backslash in a value, and counts as one without
// an address.
func forwardedFor(element string) netip.Addr {
	var addr netip.Addr
	found := false
	for pair := range strings.SplitSeq(element, ";") {
		name, value, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
		if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
			value = value[1 : len(value)-1]
		}
		isFor := strings.EqualFold(name, "for")
		if strings.ContainsAny(name+value, `"\`) || isFor && found {
			return netip.Addr{}
		}
		if isFor {
			found, addr = true, parseAddr(value)
		}
	}
	return addr
}

// parseProxies returns Config.TrustedProxies as prefixes, or the first entry that is
// invalid and the reason.
func parseProxies(entries []string) (prefixes []netip.Prefix, invalid string, err error) {
	for _, entry := range entries {
		p, err := parseProxy(entry)
		if err != nil {
			return nil, entry, err
		}
		prefixes = append(prefixes, p)
	}
	return prefixes, "", nil
}

func parseProxy(entry string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(entry); err == nil {
		if addr.Zone() != "" {
			return netip.Prefix{}, errors.New("write it without the zone")
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(entry)
	switch {
	case err != nil:
		return netip.Prefix{}, errors.New("want an IP address or a prefix, such as 10.0.0.7 or 10.0.0.0/8")
	case p.Addr().Is4In6():
		return netip.Prefix{}, errors.New("write it as a prefix of IPv4")
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("it has bits behind its length: want %v, or %v for one address", p.Masked(), p.Addr())
	}
	return p, nil
}

// addressCount is the number of connections and handshakes of one address. It is guarded
// by Hub.mu.
type addressCount struct {
	key netip.Addr
	n   int
}

// addressKey returns the address by which Config.MaxClientsPerAddress counts: a client of
// IPv6 usually has a whole /64.
func addressKey(addr netip.Addr) netip.Addr {
	if !addr.Is6() {
		return addr
	}
	p, _ := addr.Prefix(64) // addr has no zone and more bits
	return p.Addr()
}

// countAddress counts a handshake of addr. It reports false if addr has reached the limit.
// The count is nil if there is no limit or no address. The hub is locked.
func (h *Hub) countAddress(addr netip.Addr) (count *addressCount, ok bool) {
	if h.config.MaxClientsPerAddress <= 0 || !addr.IsValid() {
		return nil, true
	}
	key := addressKey(addr)
	count = h.addresses.m[key]
	if count == nil {
		count = &addressCount{key: key}
		h.addresses.put(key, count)
	}
	if count.n >= h.config.MaxClientsPerAddress {
		return nil, false
	}
	count.n++
	return count, true
}

// uncountAddress ends a count of countAddress. The hub is locked.
func (h *Hub) uncountAddress(count *addressCount) {
	if count == nil {
		return
	}
	if count.n--; count.n == 0 {
		h.addresses.remove(count.key)
	}
}
