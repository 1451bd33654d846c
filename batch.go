package websocket

import "github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"

// step is one run of messages behind others that are to be written together. The
// steps of a walk form trees, one for each form: clients that get the same
// messages in the same form stand on the same step, and share the bytes that are
// composed for it.
type batch struct {
	parent     *batch
	run        []*publication
	lastChild  *batch // latest
	childSeq   uint64 // what child's run begins with: its place in the log
	recipients int    // clients standing here
	messages   int    // messages from the root to here
	cost       int64  // of them

	buffers []*frameBuffer // composed bytes, once two clients need them
}

// round is what one walk brought: the clients that it made dirty, and what to
// let go of when no client can refer to it any more, which is when this round's
// clients and those of all rounds before are written.
type round struct {
	pubs    []*publication
	batches []*batch
	small   writeList // clients of messages that went to few: they come first
	large   writeList
}

// writeList is clients to write, in order.
type writeList struct {
	clients []*Client
	next    int
}

func (t *writeList) remaining() int { return len(t.clients) - t.next }

// pathTo lists the messages from the root to at. The slice is good until the
// next call.
func (s *shard) messagesTo(at *batch) []*publication {
	if cap(s.path) < at.messages {
		s.path = make([]*publication, at.messages, 2*at.messages)
	}
	path := s.path[:at.messages]
	for ; at.parent != nil; at = at.parent {
		copy(path[at.parent.messages:], at.run)
	}
	return path
}

// compose joins the messages on the path to at for all its clients, up to one
// that cannot be encoded.
func (s *shard) compose(at *batch, f form) {
	if len(at.buffers) > 0 {
		return
	}
	b := s.newBuffer()
	at.buffers = append(at.buffers, b)
	for _, p := range s.messagesTo(at) {
		fr := p.frame(f)
		if len(fr.bytes) == 0 {
			break
		}
		if len(b.ends) > 0 && len(b.b)+len(fr.bytes) > joinSize {
			b = s.newBuffer()
			at.buffers = append(at.buffers, b)
		}
		b.add(fr.bytes)
	}
}

// leave takes one client off a step; the last one gives its bytes back.
func (s *shard) detach(at *batch) {
	at.recipients--
	if at.recipients == 0 {
		s.freeBuffersOf(at)
	}
}

func (s *shard) freeBuffersOf(at *batch) {
	for i, b := range at.buffers {
		if cap(b.b) <= 2*joinSize && len(s.freeBuffers) < 64 {
			b.reset()
			s.freeBuffers = append(s.freeBuffers, b)
		}
		at.buffers[i] = nil
	}
	at.buffers = at.buffers[:0]
}

func (s *shard) newBuffer() *frameBuffer {
	if n := len(s.freeBuffers); n > 0 {
		b := s.freeBuffers[n-1]
		s.freeBuffers = s.freeBuffers[:n-1]
		return b
	}
	return &frameBuffer{}
}

func (s *shard) newBatch(r *round) *batch {
	var st *batch
	if n := len(s.freeBatches); n > 0 {
		st = s.freeBatches[n-1]
		s.freeBatches = s.freeBatches[:n-1]
	} else {
		st = new(batch)
	}
	r.batches = append(r.batches, st)
	return st
}

func (s *shard) newRound() *round {
	if n := len(s.freeRounds); n > 0 {
		r := s.freeRounds[n-1]
		s.freeRounds = s.freeRounds[:n-1]
		return r
	}
	return new(round)
}

const maxFreeBatches = 1 << 14

func (s *shard) freeRound(r *round) {
	for _, p := range r.pubs {
		p.release()
	}
	for _, st := range r.batches {
		s.freeBuffersOf(st)
		if len(s.freeBatches) < maxFreeBatches {
			*st = batch{buffers: st.buffers}
			s.freeBatches = append(s.freeBatches, st)
		}
	}
	clear(r.pubs)
	clear(r.batches)
	clear(r.small.clients)
	clear(r.large.clients)
	if cap(r.small.clients)+cap(r.large.clients)+cap(r.pubs) > 1<<16 {
		return
	}
	*r = round{pubs: r.pubs[:0], batches: r.batches[:0], small: writeList{clients: r.small.clients[:0]}, large: writeList{clients: r.large.clients[:0]}}
	s.freeRounds = append(s.freeRounds, r)
}

// batch is frames joined for one write, with where each of them ends.
type frameBuffer struct {
	b    []byte
	ends []int
}

func (b *frameBuffer) add(wire []byte) {
	b.b = append(b.b, wire...)
	b.ends = append(b.ends, len(b.b))
}

// addSealed appends a frame of payload sealed with a client's own keys.
func (b *frameBuffer) addSealed(payload []byte, keys *pipeline) {
	b.b = wsproto.AppendHeader(b.b, wsproto.OpBinary, len(payload)+keys.Overhead())
	b.b = keys.AppendSeal(b.b, payload)
	b.ends = append(b.ends, len(b.b))
}

// addItem reports whether the message could be encoded.
func (b *frameBuffer) addItem(it item) bool {
	fr := it.pub.frame(it.form)
	switch {
	case len(fr.bytes) == 0:
		return false
	case it.keys != nil:
		b.addSealed(fr.payload(), it.keys)
	default:
		b.add(fr.bytes)
	}
	return true
}

// whole counts the frames that end within the first n bytes.
func (b *frameBuffer) whole(n int) int {
	i := 0
	for i < len(b.ends) && b.ends[i] <= n {
		i++
	}
	return i
}

func (b *frameBuffer) reset() { b.b, b.ends = b.b[:0], b.ends[:0] }
