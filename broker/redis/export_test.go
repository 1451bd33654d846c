package redis

// DecodeRecords is tested by FuzzDecodeRecords.
var DecodeRecords = decodeRecords
