package client

import (
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// The heartbeat of a connection. period is Options.Heartbeat or the hub's figure.
//
//	quiet ──nothing received for period──▶ probed ──nothing received for period──▶ aborted
//	  ▲ ▲                                    │
//	  │ └──────────── received ──────────────┘
//
// It begins with the first byte that the hub sends after the handshake, because the hub
// answers nothing while its application's OnConnect runs. Options.RestoreTimeout bounds
// that time. The timer does not depend on the write loop, which may be blocked by a dead
// network.

// startHeartbeat starts or restarts the timer. cn.mu is locked.
func (cn *conn) startHeartbeat() {
	switch {
	case cn.state == connClosed || cn.pacing.heartbeat <= 0:
	case cn.heartbeat == nil:
		cn.heartbeat = time.AfterFunc(cn.pacing.heartbeat, cn.beat) // stopped by wait
	default:
		cn.heartbeat.Reset(cn.pacing.heartbeat)
	}
}

// beat runs when the timer fires. It takes the step that is due and starts the timer again.
func (cn *conn) beat() {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	period := cn.pacing.heartbeat
	if cn.state != connOpen || period <= 0 {
		return // a closing connection has its own timer
	}
	now, received := cn.socket.now(), cn.socket.received()
	if received >= cn.probed {
		cn.probed = 0
	}
	next := period
	switch {
	case received == 0:
	case cn.probed == 0 && now-received < period:
		next = period - (now - received)
	case cn.probed == 0:
		cn.sendProbe(now)
	case now-cn.probed < period:
		next = period - (now - cn.probed)
	default:
		cn.setCause(closeErrorf(websocket.CloseTimeout, "nothing received for %v", now-received))
		cn.socket.abort()
		return
	}
	cn.heartbeat.Reset(next)
}

// sendProbe asks the write loop to write a ping. cn.mu is locked.
func (cn *conn) sendProbe(now time.Duration) {
	cn.probed = now
	cn.ping = true
	cn.wakeWriter()
}

// probe sends a ping at once if nothing was received since the time since, and expects
// a byte within one period. It does nothing while a ping is unanswered.
func (cn *conn) probe(since time.Duration) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	received := cn.socket.received()
	if cn.state != connOpen || cn.heartbeat == nil || received == 0 || received > since || cn.probed > received {
		return
	}
	cn.sendProbe(cn.socket.now())
	cn.heartbeat.Reset(cn.pacing.heartbeat)
}

// configure sets the figures that the hub has told. The connection may have been started.
func (cn *conn) configure(p pacing) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	changed := cn.pacing.heartbeat != p.heartbeat
	cn.pacing = p
	if changed && cn.heartbeat != nil {
		cn.startHeartbeat()
	}
}

// rates returns the rates for the next message.
func (cn *conn) rates() pacing {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	return cn.pacing
}
