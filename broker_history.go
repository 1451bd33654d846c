package websocket

import (
	"context"
	"time"
)

// HistoryBroker is a Broker whose engine keeps the histories of topics (see
// Config.TopicOptions) and so gives their publications one order on all nodes. Package
// brokertest tests an implementation against the contract.
//
// # Contract
//
//  1. Order: Append gives each record an offset, and passes it to every Broker that is
//     subscribed to its topic, with BrokerHandler.Record, in the order of the offsets. The
//     Broker that appends may or may not get its own records. Appends of several Brokers
//     to one topic have one order. Records may be missing on the way, as payloads of
//     Publish may; the hub notices by BrokerRecord.Previous and reads them.
//  2. Offsets of a topic grow, from one epoch to the next too, and stay below 2^53. The
//     first offset of an epoch is at least the time of the engine or the node, in
//     milliseconds since 1970, times 1,024. They grow by one, or by at least 2^20 where the
//     engine cannot know that it has kept everything, such as after a restart; an engine
//     whose offsets have other distances sets BrokerPage.Sparse.
//  3. Epochs: an epoch is a text that no other history has. A topic gets a new one when
//     its history starts anew: when everything that the engine knew of it is gone, or with
//     Renew, which may renew other topics too. An engine that goes on with the offsets may
//     keep the epoch of a topic that it has forgotten.
//  4. Bounds: the engine removes the oldest records that exceed BrokerRecord.Keep of the
//     latest append, at that append or soon after. It forgets a topic when its latest
//     record is older than Keep.Age. Nothing is kept for ever: without an Age it chooses
//     one.
//  5. Keys: a record whose Key is that of a record which the topic still keeps is not
//     appended, whichever Broker it comes from, and gets that record's position.
//     AppendResult.Repeated is set then. An engine may compare keys for another time,
//     which its documentation tells.
//  6. Outcomes: after an AppendResult.Err other than ErrMessageTooLarge, the record may
//     have been appended. Other records of the batch are not affected.
//  7. Acknowledged records that the engine loses, in a crash or a failover, are noticed by
//     the hub: the head falls behind what it has seen. It then calls Renew.
type HistoryBroker interface {
	Broker
	// Append appends a batch. It returns a result for each record, in order. It returns
	// soon after ctx ends, and with ErrBrokerUnavailable at once while the engine is known
	// to be unreachable. The caller may reuse the payloads after it returns. The hub calls
	// it from one goroutine.
	Append(ctx context.Context, batch []BrokerRecord) []AppendResult
	// Read returns the records of a topic behind an offset, oldest first: at most limit,
	// and at least one if there is any. A topic without records is no error: its page has
	// the epoch that later records get. Read may be called from any goroutine.
	Read(ctx context.Context, topic string, after uint64, limit int) (BrokerPage, error)
	// Renew gives a topic another epoch, unless it has another one than epoch already. Its
	// records and offsets stay. Later records have the new epoch. Renew may be called from
	// any goroutine.
	Renew(ctx context.Context, topic, epoch string) error
}

// BrokerRecord is an entry of a topic's history at the engine.
type BrokerRecord struct {
	Topic   string
	Payload []byte
	// Key makes the record unique in its topic, or is empty. It is UTF-8 text of at most
	// 512 bytes. Only Append uses it.
	Key string
	// Keep has the bounds of the topic's history; a record counts as the length of its
	// Payload. Only Append uses it.
	Keep HistoryOptions

	// Position is the place of the record. It is set by the Broker, as the following fields.
	Position Position
	// Previous is the BrokerPage.Position.Offset before it was appended: the offset of the
	// record before it in the topic, whether or not that is still kept. It is 0 for the
	// first record of an epoch, and if the engine does not know because it keeps no
	// earlier record.
	Previous uint64
	// Age is the time since it was appended. Only Read sets it.
	Age time.Duration
}

// AppendResult is the outcome of appending a record.
type AppendResult struct {
	// Position is the place of the record, or of the record with the same Key.
	Position Position
	// Previous is as in BrokerRecord. It is not set if Repeated is. It may be 0 if the Broker
	// gets its own records, with BrokerHandler.Record, but is not subscribed to the topic.
	Previous uint64
	// Repeated is true if the topic has a record with the same Key already.
	Repeated bool
	// Err is ErrMessageTooLarge if the record is larger than MaxPayload, or another error
	// if the outcome is not known.
	Err error
}

// BrokerPage is a part of a topic's history at the engine.
type BrokerPage struct {
	// Position is the place behind the latest record of the topic.
	Position Position
	// Removed is the offset up to which records may have been removed, or 0 if the topic
	// still has all records of its epoch.
	Removed uint64
	// Sparse says that offsets do not count records: see Contract, point 2.
	Sparse bool
	// Records has the records, oldest first.
	Records []BrokerRecord
}

func keepsHistories(b Broker) bool {
	_, ok := b.(HistoryBroker)
	return ok
}
