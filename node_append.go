package websocket

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/nodewire"
)

// appending is a publication to a topic whose history the engine keeps. It reaches nobody
// before the engine has given it its place.
type appending struct {
	to       target
	keep     HistoryOptions
	conflate bool
	pub      *publication
	from     *Client      // nil if the server publishes
	reply    *publication // of from, or nil
	done     chan error   // has room for the result; nil if the server does not wait for it
	relayed  string       // key of a publication of a program that is no hub, which each node passes on

	record BrokerRecord
	key    scopedKey
}

// errNotPublished is returned for a publication that has reached nobody, as far as is
// known.
var errNotPublished = fmt.Errorf("websocket: not published: %w", ErrBrokerUnavailable)

// engineKey returns the key of a record: one that no other user can guess.
func engineKey(key scopedKey) string {
	if key.key == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(strconv.FormatBool(key.server) + strconv.Itoa(len(key.user)) + ":" + key.user + key.key))
	return hex.EncodeToString(sum[:16])
}

// appendPublication queues a publication for the engine. It takes over the references to
// a.pub and a.reply. If the server publishes, it waits for the result; otherwise the client
// gets the reply later, and an error only if it cannot be queued.
func (n *node) appendPublication(ctx context.Context, a *appending) error {
	n.encodeRecord(a)
	err := n.checkSize(&a.pub.msg, a.to.Name+a.key.user)
	if err == nil {
		err = n.queueAppending(ctx, a)
	}
	if err != nil {
		a.release()
		return err
	}
	if a.done == nil {
		return nil
	}
	select {
	case err := <-a.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *appending) release() {
	a.pub.release()
	a.reply.releaseIfAny()
}

// encodeRecord sets what the engine gets.
func (n *node) encodeRecord(a *appending) {
	a.key = keyScope(a.pub.msg.Key, a.from)
	origin := nodewire.Origin{Client: a.from != nil, User: a.key.user, ExceptSelf: a.pub.except != ""}
	size := nodewire.MaxHead + len(a.key.user) + int(messageCost(&a.pub.msg)) // or more
	payload := nodewire.AppendRecord(make([]byte, 0, size), n.id, a.to.Audience, origin)
	payload, _ = ProtobufCodec{}.AppendMarshal(payload, &a.pub.msg) // never fails
	a.record = BrokerRecord{Topic: a.to.Topic(), Payload: payload, Keep: a.keep}
	switch {
	case a.relayed != "":
		a.record.Key = a.relayed
	case !a.conflate:
		a.record.Key = engineKey(a.key)
	}
}

func (n *node) queueAppending(ctx context.Context, a *appending) error {
	if a.from == nil && a.relayed == "" {
		a.done = make(chan error, 1)
	}
	for {
		n.mu.Lock()
		switch {
		case n.stopped || n.hub.stopping():
			n.mu.Unlock()
			return ErrHubClosed
		case n.state == BrokerDown || n.state == BrokerStalled:
			n.countUnsent(a.to, &a.pub.msg, ErrBrokerUnavailable)
			n.mu.Unlock()
			return errNotPublished
		case n.state == BrokerUp && (n.appended == 0 || n.appended+a.pub.cost <= n.hub.config.BrokerQueue):
			n.appends = append(n.appends, a)
			n.appended += a.pub.cost
			n.mu.Unlock()
			wake(n.appendWake)
			return nil
		}
		if err := n.unlockAndWait(ctx); err != nil {
			return err
		}
	}
}

// appendLoop appends the queued publications.
func (n *node) appendLoop() {
	pace := pacer{awaited: true}
	for stopping := false; !stopping; {
		select {
		case <-n.appendWake:
		case <-n.stopping:
			stopping = true // the rest gets one more attempt
		}
		for {
			pace.wait()
			batch := n.takeAppends()
			if len(batch) == 0 {
				break
			}
			pace.begin(len(batch))
			n.appendBatch(batch)
		}
	}
}

// appendCount bounds one call of Append, which the engine carries out without a pause.
const appendCount = 1024

func (n *node) takeAppends() []*appending {
	n.mu.Lock()
	defer n.mu.Unlock()
	count, bytes := 0, int64(0)
	for count < len(n.appends) && count < appendCount && bytes < batchBytes {
		bytes += n.appends[count].pub.cost
		count++
	}
	batch := n.appends[:count:count]
	if n.appends = n.appends[count:]; len(n.appends) == 0 {
		n.appends = nil
	}
	return batch
}

func (n *node) appendBatch(batch []*appending) {
	records := make([]BrokerRecord, len(batch))
	var cost int64
	for i, a := range batch {
		records[i] = a.record
		cost += a.pub.cost
	}
	ctx, cancel := context.WithTimeout(context.Background(), n.hub.config.BrokerTimeout)
	results := n.histories.Append(ctx, records)
	cancel()
	n.mu.Lock()
	n.appended -= cost
	n.signalChange()
	n.mu.Unlock()
	for i, a := range batch {
		result := AppendResult{Err: errNotPublished}
		if i < len(results) {
			result = results[i]
		}
		n.finishAppending(a, &result)
	}
}

// finishAppending delivers a publication on this node, and tells the publisher.
func (n *node) finishAppending(a *appending, result *AppendResult) {
	l := n.hub.events
	err := result.Err
	if err != nil {
		reason := ErrMessageTooLarge
		if !errors.Is(err, ErrMessageTooLarge) {
			reason = ErrBrokerUnavailable
			n.hub.logLimited("append failed", n.hub.logger.Warningf, "websocket: a publication to topic %q was not published: %v", a.record.Topic, err)
			err = errNotPublished
		}
		n.countUnsent(a.to, &a.pub.msg, reason)
		a.pub.release()
	} else {
		n.published.Add(1)
		n.remember(a.to, result.Position)
		if result.Repeated {
			a.pub.release()
		} else {
			l.arrive(a.to, &arrival{at: result.Position, previous: result.Previous, time: l.histories.clock(), pub: a.pub, key: l.histories.hashScoped(a.key)})
		}
	}
	switch {
	case a.done != nil:
		a.done <- err
	case a.from == nil:
	case err != nil:
		m := Message{Timestamp: n.hub.now()}
		if a.reply != nil {
			m.ID = a.reply.msg.ID
		}
		a.reply.releaseIfAny()
		a.from.replyError(&m, a.to.Name, errorCode(err), err.Error())
	case a.reply != nil:
		a.reply.setPosition(result.Position, a.conflate)
		if err := l.reply(context.Background(), a.from, a.reply); err != nil {
			n.hub.logger.Debugf("websocket: ack to client %q not sent: %v", a.from.ID, err)
		}
	}
}

// relay appends a publication of a program that is no hub. Every node with members does so;
// the key makes it unique.
func (n *node) relay(head *nodewire.Head, to target, keep HistoryOptions, conflate bool, pub *publication) {
	a := &appending{to: to, keep: keep, conflate: conflate, pub: pub, relayed: fmt.Sprintf("%016x-%016x", head.Node, head.Sequence)}
	if err := n.appendPublication(context.Background(), a); err != nil && !errors.Is(err, ErrHubClosed) {
		n.hub.logLimited("append failed", n.hub.logger.Warningf, "websocket: a publication to topic %q was not published: %v", to.Topic(), err)
	}
}

// latestAppends has the position of the latest record of this node in each topic: the
// engine may lose records that no other node has seen. The node's lock guards it.
type latestAppends struct {
	current, before map[target]Position // before has those of the time before since
	since           time.Time
}

// Bounds of each of the maps of latestAppends.
const (
	maxLatestAppends = 4096
	latestAppendTime = time.Minute
)

// remember notes the position of a record that this node has appended.
func (n *node) remember(to target, at Position) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &n.latest
	if len(l.current) >= maxLatestAppends || time.Since(l.since) > latestAppendTime {
		l.current, l.before, l.since = make(map[target]Position), l.current, time.Now()
	}
	l.current[to] = at
}

// verifyAppends makes the healers look whether the engine has lost any of these records. It
// takes the place of a check that has not begun, so that the queue does not grow when the
// engine comes and goes. The node is locked.
func (n *node) verifyAppends() {
	n.heals = slices.DeleteFunc(n.heals, func(h heal) bool { return h.verify != Position{} })
	for to, at := range n.latest.before {
		if _, newer := n.latest.current[to]; !newer {
			n.queueHeal(heal{to, at})
		}
	}
	for to, at := range n.latest.current {
		n.queueHeal(heal{to, at})
	}
}
