package main

import (
	"bytes"
	"compress/flate"
	"errors"
	"hash/maphash"
	"io"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/seal"
)

// decoder inflates and opens messages for the clients of one reader. It caches
// the results, because a thousand clients receive the same bytes: without the
// cache the load generator would be the bottleneck.
type decoder struct {
	seed     maphash.Seed
	now, old map[uint64][]byte // results by hash of the received bytes; old is the previous generation
	flate    io.ReadCloser
	hub      *seal.Keys
	own      map[int]*seal.Keys // by client
}

// generation is the number of messages in each of the two generations of the cache.
const generation = 4096

func newDecoder() *decoder {
	return &decoder{seed: maphash.MakeSeed(), now: map[uint64][]byte{}, own: map[int]*seal.Keys{}}
}

// decode returns the message inflated and opened. The bytes are valid until the
// next call.
func (d *decoder) decode(c *client, deflated bool, msg []byte) ([]byte, error) {
	if !deflated && c.opt.Sealed == api.SealClient {
		k := d.own[c.id]
		if k == nil {
			var err error
			if k, err = seal.New(seal.ClientKey(c.id), seal.HMACKey); err != nil {
				return nil, err
			}
			d.own[c.id] = k
		}
		return k.Open(msg)
	}
	sum := maphash.Bytes(d.seed, msg)
	if p, ok := d.now[sum]; ok {
		return p, nil
	}
	p, ok := d.old[sum]
	if !ok {
		var err error
		if deflated {
			p, err = d.inflate(msg)
		} else {
			p, err = d.open(msg)
		}
		if err != nil {
			return nil, err
		}
		p = bytes.Clone(p)
	}
	if len(d.now) >= generation {
		d.now, d.old = map[uint64][]byte{}, d.now
	}
	d.now[sum] = p
	return p, nil
}

// deflateEnd restores the four bytes that permessage-deflate removes from the
// end of a message (RFC 7692) and adds an empty final block.
var deflateEnd = []byte{0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff}

func (d *decoder) inflate(msg []byte) ([]byte, error) {
	r := io.MultiReader(bytes.NewReader(msg), bytes.NewReader(deflateEnd))
	if d.flate == nil {
		d.flate = flate.NewReader(r)
	} else if err := d.flate.(flate.Resetter).Reset(r, nil); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(d.flate, maxMessage+1))
	if err == nil && len(b) > maxMessage {
		err = errors.New("inflated message too large")
	}
	return b, err
}

func (d *decoder) open(msg []byte) ([]byte, error) {
	if d.hub == nil {
		k, err := seal.New(seal.AESKey, seal.HMACKey)
		if err != nil {
			return nil, err
		}
		d.hub = k
	}
	return d.hub.Open(msg)
}
