package nodewire

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
)

// Target is the group of recipients of a publication: a channel, a room, one
// client by ID, or all clients if the audience is ToClients and Name is empty.
type Target struct {
	Audience Audience
	Name     string
}

// Topics that do not belong to one target.
const (
	TopicBroadcast = "b" // publications to all clients
	TopicNodes     = "q" // hellos and questions to all nodes
)

// maxName is the longest name that stands in a topic, in bytes.
const maxName = 500

var prefixes = [...]string{ToClients: "u.", ToChannel: "c.", ToRoom: "r."}

// hashedPrefix begins the topics of long names. The prefix of the audience and a
// hash of the name follow.
const hashedPrefix = "h"

// Topic returns the topic that publications to the target are published to. Long
// names are hashed: a topic only selects the nodes that receive a payload, and
// the name itself is in the payload.
func (t Target) Topic() string {
	if t == (Target{}) {
		return TopicBroadcast
	}
	if len(t.Name) > maxName {
		sum := sha256.Sum256([]byte(t.Name))
		return hashedPrefix + prefixes[t.Audience] + hex.EncodeToString(sum[:])
	}
	return prefixes[t.Audience] + t.Name
}

// TargetOf is the inverse of Target.Topic. It reports false for topics without
// one target: those of nodes and those with a hashed name.
func TargetOf(topic string) (t Target, ok bool) {
	if topic == TopicBroadcast {
		return Target{}, true
	}
	for audience, prefix := range prefixes {
		if name, found := strings.CutPrefix(topic, prefix); found {
			return Target{Audience(audience), name}, true
		}
	}
	return Target{}, false
}

// IsHashed reports whether topic belongs to a target whose name is hashed.
func IsHashed(topic string) bool { return strings.HasPrefix(topic, hashedPrefix) }

// NodeTopic returns the topic of payloads for one node.
func NodeTopic(id uint64) string { return "n." + NodeName(id) }

// NodeName returns the name of a node that has no other: its ID in hexadecimal.
func NodeName(id uint64) string {
	return hex.EncodeToString(binary.BigEndian.AppendUint64(nil, id))
}

// MaxTargets is the largest number of targets that Targets lists.
const MaxTargets = 1024

// Targets is a set of targets of bounded size. Adding to a set that lists
// MaxTargets makes it the set of all targets. The zero value is empty.
type Targets struct {
	All bool                // every target; Set is nil
	Set map[Target]struct{} // at most MaxTargets
}

// Add adds one target.
func (t *Targets) Add(one Target) {
	if t.All {
		return
	}
	if len(t.Set) >= MaxTargets {
		*t = Targets{All: true}
		return
	}
	if t.Set == nil {
		t.Set = make(map[Target]struct{})
	}
	t.Set[one] = struct{}{}
}

// Empty reports whether the set has no targets.
func (t *Targets) Empty() bool { return !t.All && len(t.Set) == 0 }
