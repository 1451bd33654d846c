package websocket

import "github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"

// A batch is a run of messages for the next write to one or more clients, behind the
// messages of its parent. A client's pending batch stands for all messages on the path
// from the root to it. Batches of one form make a tree, so that clients with the same
// pending messages share one batch, and the bytes that are composed for it.
//
// For example, a and b are in room x, and b and c in room y. Message 1 is published to x
// and message 2 to y:
//
//	root
//	├── 1 ← a          a gets 1
//	│   └── 2 ← b      b gets 1, 2
//	└── 2 ← c          c gets 2
//
// Message 3, published to x, then gives two new batches: one behind a's and one behind
// b's. All clients of a batch that get the same next run move on to the same new batch:
// push finds it in lastChild, because the runs are delivered one after the other.
//
// A batch is recycled with its round, when all clients of this round and of earlier ones
// are written. No client has it on its path then. Its parent may still point to it by
// lastChild; that pointer is not followed, because childSeq never matches a later run.
type batch struct {
	parent     *batch
	run        []*publication
	lastChild  *batch // the child that was created last
	childSeq   uint64 // seq of the first message of lastChild's run
	recipients int    // clients whose pending batch this is; not maintained for roots
	messages   int    // number of messages from the root to here
	cost       int64  // their cost

	buffers []*frameBuffer // the composed bytes, if they were needed
}

// A round is the outcome of one call of route: the clients to write, and the publications
// and batches to release when this round and all earlier ones are written.
type round struct {
	pubs    []*publication
	batches []*batch
	small   writeList // recipients of messages with a small audience
	large   writeList // all other recipients
}

// writeList is a list of clients to flush, in order.
type writeList struct {
	clients []*Client
	next    int
}

func (t *writeList) remaining() int { return len(t.clients) - t.next }

// messagesTo returns the messages on the path from the root to at. The slice is valid
// until the next call.
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

// compose joins the frames of at's messages, once for all its clients. It stops before a
// message that cannot be encoded.
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

// detach removes one client from a batch. The last one releases the composed bytes.
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
	var b *batch
	if n := len(s.freeBatches); n > 0 {
		b = s.freeBatches[n-1]
		s.freeBatches = s.freeBatches[:n-1]
	} else {
		b = new(batch)
	}
	r.batches = append(r.batches, b)
	return b
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
	for _, b := range r.batches {
		s.freeBuffersOf(b)
		if len(s.freeBatches) < maxFreeBatches {
			*b = batch{buffers: b.buffers}
			s.freeBatches = append(s.freeBatches, b)
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

// frameBuffer holds the bytes of frames that are joined for one write, and where each
// frame ends.
type frameBuffer struct {
	b    []byte
	ends []int
}

func (b *frameBuffer) add(frame []byte) {
	b.b = append(b.b, frame...)
	b.ends = append(b.ends, len(b.b))
}

// addSealed appends a frame with the payload sealed by a client's own keys.
func (b *frameBuffer) addSealed(payload []byte, keys *pipeline) {
	b.b = wsproto.AppendHeader(b.b, wsproto.OpBinary, len(payload)+keys.Overhead())
	b.b = keys.AppendSeal(b.b, payload)
	b.ends = append(b.ends, len(b.b))
}

// addItem appends the frame of a message. It reports whether the message could be encoded.
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

// whole returns the number of frames that end within the first n bytes.
func (b *frameBuffer) whole(n int) int {
	i := 0
	for i < len(b.ends) && b.ends[i] <= n {
		i++
	}
	return i
}

func (b *frameBuffer) reset() { b.b, b.ends = b.b[:0], b.ends[:0] }
