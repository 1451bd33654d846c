// The wire format, implemented with third-party libraries. Messages are
// {type, channel, data: Uint8Array, timestamp: BigInt, clientId, id}, room and
// exceptSelf if they are true, and trace if there is one.

import { fileURLToPath } from "node:url";
import { decode as msgpackDecode, encode as msgpackEncode } from "@msgpack/msgpack";
import * as flatbuffers from "flatbuffers";
import protobuf from "protobufjs";

const none = new Uint8Array(0);
const rare = (room, exceptSelf, trace) => ({ ...(room && { room }), ...(exceptSelf && { exceptSelf }), ...(trace && { trace }) });
const utf8 = new TextEncoder();
const strictUTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Parses bytes as JSON. Returns undefined if they are not JSON. */
export function asJSON(bytes) {
  try {
    return JSON.parse(strictUTF8.decode(bytes));
  } catch {
    return undefined;
  }
}

const jsonControls = {
  request: (fields) => utf8.encode(JSON.stringify(fields)),
  error: asJSON,
  gap: asJSON,
};

const json = {
  ...jsonControls,
  text: true,
  encode({ type, channel, data = none, timestamp = 0n, clientId, id, room, exceptSelf, trace }) {
    const fields = { type, channel, data: asJSON(data), timestamp: Number(timestamp), client_id: clientId, id };
    if (room) fields.room = true;
    if (exceptSelf) fields.except_self = true;
    if (trace) fields.trace = trace;
    if (fields.data === undefined && data.length > 0) {
      fields.data = Buffer.from(data).toString("base64");
      fields.encoding = "base64";
    }
    return JSON.stringify(fields);
  },
  decode(text) {
    const { type, channel = "", data, encoding, client_id: clientId = "", id = "", room, except_self, trace } = JSON.parse(text);
    // JSON.parse would round the 64-bit integer.
    const timestamp = BigInt(/"timestamp":(-?\d+)(?:,"client_id":"[^]*")?(?:,"id":"[^]*")?(?:,"offset":\d+)?(?:,"key":"[^]*")?(?:,"room":true)?(?:,"except_self":true)?(?:,"trace":"[^]*")?}$/.exec(text)[1]);
    let bytes = none;
    if (encoding === "base64") bytes = Uint8Array.from(Buffer.from(data, "base64"));
    else if (data !== null) bytes = utf8.encode(JSON.stringify(data));
    return { type, channel, data: bytes, timestamp, clientId, id, ...rare(room, except_self, trace) };
  },
};

const root = protobuf.loadSync(fileURLToPath(new URL("../../proto/message.proto", import.meta.url)));
const [WsMessage, ChannelRequest, RoomRequest, ErrorReply, GapNotice] = [
  "WsMessage",
  "ChannelRequest",
  "RoomRequest",
  "ErrorReply",
  "GapNotice",
].map((name) => root.lookupType(`hypgo.websocket.${name}`));
const { Long } = protobuf.util;
const plainNumbers = (object) =>
  Object.fromEntries(Object.entries(object).map(([key, value]) => [key, Long.isLong(value) ? Number(value) : value]));

const proto = {
  text: false,
  encode({ timestamp = 0n, ...fields }) {
    return WsMessage.encode({ ...fields, timestamp: Long.fromString(String(timestamp)) }).finish();
  },
  decode(bytes) {
    const { type, channel, data, timestamp, clientId, id, room, exceptSelf, trace } = WsMessage.decode(bytes);
    const plain = { data: Uint8Array.from(data), timestamp: BigInt(String(timestamp)) };
    return { type, channel, ...plain, clientId, id, ...rare(room, exceptSelf, trace) };
  },
  request: ({ channel, room_id: roomId }) =>
    roomId === undefined ? ChannelRequest.encode({ channel }).finish() : RoomRequest.encode({ roomId }).finish(),
  error: (bytes) => ({ ...ErrorReply.decode(bytes) }),
  gap(bytes) {
    const { roomId, ...gap } = GapNotice.decode(bytes);
    return plainNumbers(roomId ? { ...gap, room_id: roomId } : gap);
  },
};

/** Accessors for proto/message.fbs, like those that flatc generates. */
class FlatMessage {
  constructor(bytes) {
    this.bb = new flatbuffers.ByteBuffer(bytes);
    this.at = this.bb.readInt32(this.bb.position()) + this.bb.position();
  }

  #field(vtableOffset) {
    const offset = this.bb.__offset(this.at, vtableOffset);
    return offset === 0 ? 0 : this.at + offset;
  }

  #string(vtableOffset) {
    const field = this.#field(vtableOffset);
    return field === 0 ? "" : this.bb.__string(field);
  }

  get type() {
    return this.#string(4);
  }

  get channel() {
    return this.#string(6);
  }

  get data() {
    const field = this.#field(8);
    if (field === 0) return none;
    const start = this.bb.__vector(field);
    return this.bb.bytes().slice(start, start + this.bb.__vector_len(field));
  }

  get timestamp() {
    const field = this.#field(10);
    return field === 0 ? 0n : this.bb.readInt64(field);
  }

  get clientId() {
    return this.#string(12);
  }

  get id() {
    return this.#string(14);
  }

  #bool(vtableOffset) {
    const field = this.#field(vtableOffset);
    return field !== 0 && this.bb.readInt8(field) !== 0;
  }

  get room() {
    return this.#bool(20);
  }

  get exceptSelf() {
    return this.#bool(22);
  }

  get trace() {
    return this.#string(24);
  }
}

const flat = {
  ...jsonControls,
  text: false,
  encode({ type, channel, data, timestamp = 0n, clientId, id, room, exceptSelf, trace }) {
    const builder = new flatbuffers.Builder();
    const offsets = [
      type && builder.createString(type),
      channel && builder.createString(channel),
      data?.length && builder.createByteVector(data),
      0,
      clientId && builder.createString(clientId),
      id && builder.createString(id),
    ];
    const traceOffset = trace && builder.createString(trace);
    builder.startObject(11);
    offsets.forEach((offset, slot) => offset && builder.addFieldOffset(slot, offset, 0));
    builder.addFieldInt64(3, timestamp, 0n);
    builder.addFieldInt8(8, room ? 1 : 0, 0);
    builder.addFieldInt8(9, exceptSelf ? 1 : 0, 0);
    if (traceOffset) builder.addFieldOffset(10, traceOffset, 0);
    builder.finish(builder.endObject());
    return builder.asUint8Array();
  },
  decode(bytes) {
    const { type, channel, data, timestamp, clientId, id, room, exceptSelf, trace } = new FlatMessage(bytes);
    return { type, channel, data, timestamp, clientId, id, ...rare(room, exceptSelf, trace) };
  },
};

const msgpack = {
  ...jsonControls,
  text: false,
  encode({ clientId, exceptSelf, ...fields }) {
    const renamed = { ...fields, client_id: clientId, except_self: exceptSelf };
    return msgpackEncode(renamed, { useBigInt64: true, ignoreUndefined: true });
  },
  decode(bytes) {
    const fields = msgpackDecode(bytes, { useBigInt64: true });
    const { type, channel, data, timestamp, client_id: clientId, id = "", room, except_self, trace } = fields;
    return { type, channel, data: data ?? none, timestamp: BigInt(timestamp), clientId, id, ...rare(room, except_self, trace) };
  },
};

export const codecs = { json, protobuf: proto, flatbuffers: flat, msgpack };
