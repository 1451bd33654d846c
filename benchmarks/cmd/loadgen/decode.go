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

// decoder inflates and opens messages for the clients of one reader. Bytes that
// it has seen before, as most are when a thousand clients get the same message,
// it looks up: otherwise the load generator would be the bottleneck.
type decoder struct {
	seed     maphash.Seed
	now, old map[uint64][]byte
	flate    io.ReadCloser
	hub      *seal.Keys
	own      map[int]*seal.Keys
}

const generation = 4096 // messages remembered, twice

func newDecoder() *decoder {
	return &decoder{seed: maphash.MakeSeed(), now: map[uint64][]byte{}, own: map[int]*seal.Keys{}}
}

// plain returns the bytes of a message, valid until the next call.
func (d *decoder) plain(c *client, deflated bool, msg []byte) ([]byte, error) {
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

// end is what permessage-deflate strips, and an empty final block.
var end = []byte{0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff}

func (d *decoder) inflate(msg []byte) ([]byte, error) {
	r := io.MultiReader(bytes.NewReader(msg), bytes.NewReader(end))
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
