// Oracles: independent implementations of the four codecs with third-party
// libraries, and of sealing with node:crypto. Messages are plain objects here:
// {type, channel, data: Uint8Array, timestampNs, clientId, id}.

import * as nodeCrypto from "node:crypto";
import * as flatbuffers from "flatbuffers";
import { decode as msgpackDecode, encode as msgpackEncode } from "@msgpack/msgpack";
import protobuf from "protobufjs";

const { root } = protobuf.parse(`
  syntax = "proto3";
  message WsMessage {
    string type = 1;
    string channel = 2;
    bytes data = 3;
    int64 timestamp = 4;
    string client_id = 5;
    string id = 6;
  }
  message ChannelRequest { string channel = 1; }
  message RoomRequest { string room_id = 1; }
  message ErrorReply { string code = 1; string message = 2; }
  message GapNotice {
    string channel = 1;
    string room_id = 2;
    uint64 count = 3;
    int64 first = 4;
    int64 last = 5;
    string reason = 6;
    bool all = 7;
  }
`);

export const { WsMessage, ChannelRequest, RoomRequest, ErrorReply, GapNotice } = Object.fromEntries(
  ["WsMessage", "ChannelRequest", "RoomRequest", "ErrorReply", "GapNotice"].map((name) => [
    name,
    root.lookupType(name),
  ]),
);

const { Long } = protobuf.util;
export const toLong = (value) => Long.fromString(String(value));
const toBigInt = (value) => BigInt(String(value));
const bytesOf = (data) => Uint8Array.from(data ?? []);

const jsonControls = {
  target: (key, data) => JSON.parse(Buffer.from(data).toString())[key],
  error: (code, message) => Buffer.from(JSON.stringify({ code, message })),
  gap: ({ channel, room, all, count, firstNs, lastNs, reason }) =>
    Buffer.from(
      `{${channel ? `"channel":${JSON.stringify(channel)},` : ""}${room ? `"room_id":${JSON.stringify(room)},` : ""}` +
        `${all ? '"all":true,' : ""}"count":${count},"first":${firstNs},"last":${lastNs},"reason":${JSON.stringify(reason)}}`,
    ),
};

/** Reports whether data is JSON without space around it, which belongs to the envelope and not to its value. */
function isJSON(data) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(data);
    JSON.parse(text);
    return text.trim() === text;
  } catch {
    return false;
  }
}

const json = {
  ...jsonControls,
  encode({ type, channel, data, timestampNs, clientId, id }) {
    let payload = "null";
    if (data.length > 0) {
      payload = isJSON(data)
        ? Buffer.from(data).toString()
        : `"${Buffer.from(data).toString("base64")}","encoding":"base64"`;
    }
    const optional = (key, value) => (value === "" ? "" : `,"${key}":${JSON.stringify(value)}`);
    return (
      `{"type":${JSON.stringify(type)}${optional("channel", channel)},"data":${payload},"timestamp":${timestampNs}` +
      `${optional("client_id", clientId)}${optional("id", id)}}`
    );
  },
  decode(text) {
    const { type, channel = "", data, encoding, timestamp, client_id: clientId = "", id = "" } = JSON.parse(text);
    let bytes = Buffer.alloc(0);
    if (encoding === "base64") bytes = Buffer.from(data, "base64");
    else if (data !== null) bytes = Buffer.from(JSON.stringify(data));
    return { type, channel, data: Uint8Array.from(bytes), timestampNs: BigInt(timestamp), clientId, id };
  },
};

const proto = {
  target: (key, data) => (key === "channel" ? ChannelRequest.decode(data).channel : RoomRequest.decode(data).roomId),
  error: (code, message) => ErrorReply.encode({ code, message }).finish(),
  gap: ({ channel, room, all, count, firstNs, lastNs, reason }) =>
    GapNotice.encode({ channel, roomId: room, count, first: toLong(firstNs), last: toLong(lastNs), reason, all }).finish(),
  encode({ type, channel, data, timestampNs, clientId, id }) {
    return WsMessage.encode({ type, channel, data, timestamp: toLong(timestampNs), clientId, id }).finish();
  },
  decode(bytes) {
    const { type, channel, data, timestamp, clientId, id } = WsMessage.decode(bytes);
    return { type, channel, data: bytesOf(data), timestampNs: toBigInt(timestamp), clientId, id };
  },
};

// Like the code that flatc generates from proto/message.fbs.
const flat = {
  ...jsonControls,
  encode({ type, channel, data, timestampNs, clientId, id }) {
    const builder = new flatbuffers.Builder(64);
    const typeAt = builder.createString(type);
    const channelAt = builder.createString(channel);
    const dataAt = data.length > 0 ? builder.createByteVector(data) : 0;
    const clientAt = builder.createString(clientId);
    const idAt = id === "" ? 0 : builder.createString(id);
    builder.startObject(6);
    builder.addFieldOffset(0, typeAt, 0);
    builder.addFieldOffset(1, channelAt, 0);
    builder.addFieldOffset(2, dataAt, 0);
    builder.addFieldInt64(3, timestampNs, 0n);
    builder.addFieldOffset(4, clientAt, 0);
    builder.addFieldOffset(5, idAt, 0);
    builder.finish(builder.endObject());
    return builder.asUint8Array();
  },
  decode(bytes) {
    const buffer = new flatbuffers.ByteBuffer(bytes);
    const table = buffer.readInt32(buffer.position()) + buffer.position();
    const at = (slot) => {
      const offset = buffer.__offset(table, 4 + 2 * slot);
      return offset && table + offset;
    };
    const text = (slot) => (at(slot) ? buffer.__string(at(slot)) : "");
    const vector = (slot) => {
      if (!at(slot)) return new Uint8Array(0);
      const start = buffer.__vector(at(slot));
      return bytes.slice(start, start + buffer.__vector_len(at(slot)));
    };
    return {
      type: text(0),
      channel: text(1),
      data: vector(2),
      timestampNs: at(3) ? buffer.readInt64(at(3)) : 0n,
      clientId: text(4),
      id: text(5),
    };
  },
};

const msgpack = {
  ...jsonControls,
  encode({ type, channel, data, timestampNs, clientId, id }) {
    const fields = { type, channel, data: data.length > 0 ? data : null, timestamp: timestampNs, client_id: clientId };
    return msgpackEncode(id === "" ? fields : { ...fields, id }, { useBigInt64: true });
  },
  decode(bytes) {
    const fields = msgpackDecode(bytes, { useBigInt64: true });
    const { type, channel, data, timestamp, client_id: clientId, id = "" } = fields;
    return { type, channel, data: bytesOf(data), timestampNs: BigInt(timestamp), clientId, id };
  },
};

export const oracles = { json, protobuf: proto, flatbuffers: flat, msgpack };

/** Seals and opens with node:crypto. */
export class OracleSealer {
  constructor({ aesKey, hmacKey, signThenEncrypt = true }) {
    const sign = hmacKey && {
      seal: (data) => Buffer.concat([nodeCrypto.createHmac("sha256", hmacKey).update(data).digest(), data]),
      open: (data) => {
        const mac = nodeCrypto.createHmac("sha256", hmacKey).update(data.subarray(32)).digest();
        if (!nodeCrypto.timingSafeEqual(mac, data.subarray(0, 32))) throw new Error("signature does not match");
        return data.subarray(32);
      },
    };
    const encrypt = aesKey && {
      seal: (data) => {
        const nonce = nodeCrypto.randomBytes(12);
        const cipher = nodeCrypto.createCipheriv("aes-256-gcm", aesKey, nonce);
        return Buffer.concat([nonce, cipher.update(data), cipher.final(), cipher.getAuthTag()]);
      },
      open: (data) => {
        const decipher = nodeCrypto.createDecipheriv("aes-256-gcm", aesKey, data.subarray(0, 12));
        decipher.setAuthTag(data.subarray(-16));
        return Buffer.concat([decipher.update(data.subarray(12, -16)), decipher.final()]);
      },
    };
    this.steps = (signThenEncrypt ? [sign, encrypt] : [encrypt, sign]).filter(Boolean);
  }

  seal(data) {
    return this.steps.reduce((bytes, step) => step.seal(bytes), Buffer.from(data));
  }

  open(data) {
    return this.steps.reduceRight((bytes, step) => step.open(bytes), Buffer.from(data));
  }
}
