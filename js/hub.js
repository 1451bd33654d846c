// A client of a hypgo-websocket hub, for browsers and Node.
//
// The file is ordered bottom-up: errors and close codes, messages and payloads,
// the four codecs, sealing, Connection (one WebSocket), and HubClient (which
// reconnects and restores its memberships).

const utf8Encoder = new TextEncoder();
// ignoreBOM keeps a leading U+FEFF as part of the text.
const utf8Decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const noBytes = new Uint8Array(0);
const noop = () => {};

// Errors and close codes

/**
 * The error class of this library. `code` is one of the hub's codes
 * (bad_request, forbidden, limit, too_large, unavailable) or one of the client's
 * (timeout, aborted, disconnected, closed, overflow, unreachable, malformed,
 * security, handler). Invalid arguments throw a TypeError or RangeError instead.
 */
export class HubError extends Error {
  constructor(code, message, { cause, target } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "HubError";
    this.code = code;
    /** True if the hub may have carried out the call although it rejected. */
    this.outcomeUnknown = false;
    /** The channel or room that the error concerns, if any. */
    this.target = target;
  }
}

/** Input that its codec cannot decode. The code is "malformed". */
export class DecodeError extends HubError {
  constructor(message, cause) {
    super("malformed", message, { cause });
    this.name = "DecodeError";
  }
}

/**
 * The close codes, and whether the client reconnects after each of them. It does
 * not reconnect after other codes. 1005 stands for a Close frame without a code,
 * 1006 for a connection that ended without a Close frame. "credentials" means
 * that the client reconnects only if it has a getToken to get a new token from.
 */
export const closeCodes = Object.freeze({
  1000: { name: "normal", reconnect: false },
  1001: { name: "going away", reconnect: true },
  1002: { name: "protocol error", reconnect: false },
  1003: { name: "wrong frame type", reconnect: false },
  1005: { name: "no code", reconnect: true },
  1006: { name: "abnormal", reconnect: true },
  1007: { name: "malformed message", reconnect: false },
  1008: { name: "policy violation", reconnect: false },
  1009: { name: "message too big", reconnect: false },
  1011: { name: "internal error", reconnect: true },
  1012: { name: "service restart", reconnect: true },
  1013: { name: "try again later", reconnect: true },
  3000: { name: "unauthorized", reconnect: "credentials" },
  3003: { name: "forbidden", reconnect: false },
  3008: { name: "timeout", reconnect: true },
  4409: { name: "replaced", reconnect: false },
});

// Bytes and text

function decodeUTF8(bytes, label) {
  try {
    return utf8Decoder.decode(bytes);
  } catch (error) {
    throw new DecodeError(`${label} is not valid UTF-8`, error);
  }
}

/** Returns the bytes of an ArrayBuffer, typed array, DataView or Buffer without copying them. */
function viewOf(data) {
  if (data instanceof Uint8Array) return data;
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return new Uint8Array(data);
}

const isBinary = (data) => data instanceof ArrayBuffer || ArrayBuffer.isView(data);

function concat(a, b) {
  const joined = new Uint8Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
}

function toBase64(bytes) {
  // fromCharCode takes every byte as an argument, and engines limit the number of arguments.
  const chunk = 0x8000;
  let binary = "";
  for (let i = 0; i < bytes.length; i += chunk) {
    binary += String.fromCharCode.apply(null, bytes.subarray(i, i + chunk));
  }
  return btoa(binary);
}

/** Decodes base64. Throws a DecodeError if the text is invalid. */
export function fromBase64(text) {
  let binary;
  try {
    binary = atob(text);
  } catch (error) {
    throw new DecodeError("not base64", error);
  }
  return Uint8Array.from(binary, (char) => char.charCodeAt(0));
}

/** Decodes hexadecimal digits. Throws a DecodeError if the text is invalid. */
export function fromHex(text) {
  if (text.length % 2 !== 0 || /[^0-9a-f]/i.test(text)) throw new DecodeError("not hexadecimal");
  return Uint8Array.from({ length: text.length / 2 }, (_, i) => parseInt(text.slice(2 * i, 2 * i + 2), 16));
}

const base64url = (text) =>
  toBase64(utf8Encoder.encode(text)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

function checkInt64(value) {
  if (BigInt.asIntN(64, value) !== value) throw new RangeError(`${value} does not fit in 64 bits`);
  return value;
}

// Messages

/**
 * The payload of a message, held as bytes or as JSON text. Each form is derived
 * from the other on first use, so that unused forms cost nothing.
 */
class Payload {
  static empty = Payload.ofBytes(noBytes);

  #bytes;
  #text;
  #value;

  /** Returns the payload for `data`, which is binary data or any JSON value. */
  static of(data) {
    if (data === undefined || data === null) return Payload.empty;
    if (isBinary(data)) return Payload.ofBytes(viewOf(data));
    const text = JSON.stringify(data);
    if (text === undefined) throw new TypeError(`a ${typeof data} cannot be encoded as JSON`);
    return text === "null" ? Payload.empty : Payload.ofJSON(text);
  }

  static ofBytes(bytes) {
    const payload = new Payload();
    payload.#bytes = bytes;
    return payload;
  }

  /** `text` must be valid JSON. `value` is its parsed form, if the caller has it. */
  static ofJSON(text, value) {
    const payload = new Payload();
    payload.#text = text;
    payload.#value = value;
    payload.isJSON = true;
    return payload;
  }

  /** True if the payload was made from JSON. Bytes that are valid JSON do not count. */
  isJSON = false;

  get bytes() {
    return (this.#bytes ??= utf8Encoder.encode(this.#text));
  }

  get text() {
    return (this.#text ??= decodeUTF8(this.#bytes, "payload"));
  }

  get value() {
    if (this.#value !== undefined) return this.#value;
    if (this.text === "") return null;
    try {
      return (this.#value = JSON.parse(this.text));
    } catch (error) {
      throw new DecodeError("payload is not JSON", error);
    }
  }
}

let payloadOf;

/** A message to or from the hub. */
export class Message {
  #payload;

  constructor({ type = "", channel = "", data, timestampNs = 0n, clientId = "", id = "" }) {
    this.type = type;
    /** The channel's name, or the room's ID in a room message. */
    this.channel = channel;
    /** The hub's time in Unix nanoseconds, exactly. */
    this.timestampNs = checkInt64(timestampNs);
    /** The ID of the client that published the message; empty if the server did. */
    this.clientId = clientId;
    /** The request ID. The hub's reply has the ID of its request. */
    this.id = id;
    this.#payload = data instanceof Payload ? data : Payload.of(data);
  }

  /** The hub's time in Unix milliseconds, for `new Date()`. */
  get timestamp() {
    return Number(this.timestampNs / 1_000_000n);
  }

  /**
   * Returns the payload parsed as JSON, or null if it is empty. Throws a
   * DecodeError if it is not JSON. Every call returns the same object.
   */
  json() {
    return this.#payload.value;
  }

  /** Returns the payload as bytes. The array belongs to the message: copy it before changing it. */
  bytes() {
    return this.#payload.bytes;
  }

  /** Returns the payload as text. Throws a DecodeError if it is not UTF-8. */
  text() {
    return this.#payload.text;
  }

  static {
    payloadOf = (message) => message.#payload;
  }
}

// Codecs. A codec has:
//   name               also the name of its subprotocol
//   text               true if its frames are text
//   encode, decode     convert a message to a frame and back
//   target(key, name)  returns the data of a message that joins or leaves a channel or room
//   error, gap         parse the hub's error replies and gap notices

const asMessage = (message) => (message instanceof Message ? message : new Message(message));

const encodedTexts = ({ type, channel, clientId, id }) =>
  [type, channel, clientId, id].map((text) => utf8Encoder.encode(text));

/** Control data, which is JSON in every codec except protobuf. */
const jsonControls = {
  target: (key, name) => ({ [key]: name }),

  error(message) {
    const fields = jsonFields(message.text(), "error reply");
    return { code: stringField(fields, "code"), message: stringField(fields, "message") };
  },

  gap(message) {
    const text = message.text();
    const fields = jsonFields(text, "gap notice");
    const sources = memberSources(text);
    return {
      channel: stringField(fields, "channel"),
      room: stringField(fields, "room_id"),
      all: fields.all === true,
      count: Number(integerSource(sources, "count")),
      firstNs: integerSource(sources, "first"),
      lastNs: integerSource(sources, "last"),
      reason: stringField(fields, "reason"),
    };
  },
};

// JSON

const jsonCodec = {
  ...jsonControls,
  name: "json",
  text: true,

  encode(message) {
    const { type, channel, timestampNs, clientId, id } = (message = asMessage(message));
    let json = `{"type":${JSON.stringify(type)}`;
    if (channel !== "") json += `,"channel":${JSON.stringify(channel)}`;
    json += `,"data":${jsonData(payloadOf(message))},"timestamp":${timestampNs}`;
    if (clientId !== "") json += `,"client_id":${JSON.stringify(clientId)}`;
    if (id !== "") json += `,"id":${JSON.stringify(id)}`;
    return json + "}";
  },

  decode(text) {
    const fields = jsonFields(text, "json");
    const sources = memberSources(text);
    return new Message({
      type: stringField(fields, "type"),
      channel: stringField(fields, "channel"),
      data: payloadField(fields, sources),
      timestampNs: integerSource(sources, "timestamp"),
      clientId: stringField(fields, "client_id"),
      id: stringField(fields, "id"),
    });
  },
};

/** Writes JSON unchanged, and bytes as base64 even if they are valid JSON. */
function jsonData(payload) {
  if (payload.isJSON) return payload.text;
  if (payload.bytes.length === 0) return "null";
  return `"${toBase64(payload.bytes)}","encoding":"base64"`;
}

function payloadField(fields, sources) {
  const encoding = stringField(fields, "encoding");
  if (encoding === "base64") return Payload.ofBytes(fromBase64(stringField(fields, "data")));
  if (encoding !== "") throw new DecodeError(`json: unknown encoding ${JSON.stringify(encoding)}`);
  const { data } = fields;
  return data === undefined || data === null ? Payload.empty : Payload.ofJSON(sources.get("data"), data);
}

function jsonFields(text, label) {
  let fields;
  try {
    fields = JSON.parse(text);
  } catch (error) {
    throw new DecodeError(`${label}: ${error.message}`, error);
  }
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) {
    throw new DecodeError(`${label}: not an object`);
  }
  return fields;
}

function stringField(fields, key) {
  const value = fields[key];
  if (value === undefined || value === null) return "";
  if (typeof value !== "string") throw new DecodeError(`json: ${key} is not a string`);
  return value;
}

function integerSource(sources, key) {
  const source = sources.get(key) ?? "null";
  if (source === "null") return 0n;
  if (!/^-?\d{1,20}$/.test(source)) throw new DecodeError(`json: ${key} is not an integer`);
  const value = BigInt(source);
  if (BigInt.asIntN(64, value) !== value) throw new DecodeError(`json: ${key} does not fit in 64 bits`);
  return value;
}

/**
 * Maps the keys of a JSON object to the source text of their values. JSON.parse
 * rounds 64-bit integers and drops the formatting of the payload. The text must
 * be an object that JSON.parse accepts: it is not validated again.
 */
function memberSources(text) {
  const sources = new Map();
  let i = skipSpace(text, text.indexOf("{") + 1);
  while (text[i] !== "}") {
    const keyEnd = endOfString(text, i);
    const start = skipSpace(text, text.indexOf(":", keyEnd) + 1);
    const end = endOfValue(text, start);
    sources.set(JSON.parse(text.slice(i, keyEnd)), text.slice(start, end).trimEnd());
    i = text[end] === "," ? skipSpace(text, end + 1) : end;
  }
  return sources;
}

function skipSpace(text, i) {
  while (text.charCodeAt(i) <= 32) i++;
  return i;
}

/** Returns the index of the comma or brace after the value that begins at i. */
function endOfValue(text, i) {
  for (let depth = 0; ; i++) {
    switch (text[i]) {
      case '"':
        i = endOfString(text, i) - 1;
        break;
      case "{":
      case "[":
        depth++;
        break;
      case "}":
      case "]":
        if (depth === 0) return i;
        depth--;
        break;
      case ",":
        if (depth === 0) return i;
    }
  }
}

/** Returns the index after the closing quote of the string that begins at i. */
function endOfString(text, i) {
  let end = i;
  let escapes;
  do {
    end = text.indexOf('"', end + 1);
    for (escapes = 0; text[end - 1 - escapes] === "\\"; escapes++);
  } while (escapes % 2 === 1);
  return end + 1;
}

// Protobuf, with the schema proto/message.proto

const varintType = 0;
const fixed64Type = 1;
const lengthType = 2;
const fixed32Type = 5;

const protobufCodec = {
  name: "protobuf",
  text: false,

  encode(message) {
    const { type, channel, timestampNs, clientId, id } = (message = asMessage(message));
    return protobufMessage([
      [1, type],
      [2, channel],
      [3, payloadOf(message).bytes],
      [4, timestampNs],
      [5, clientId],
      [6, id],
    ]);
  },

  decode(frame) {
    const fields = protobufFields("protobuf", frame, {
      1: "text",
      2: "text",
      3: "bytes",
      4: "int64",
      5: "text",
      6: "text",
    });
    return new Message({
      type: fields[1],
      channel: fields[2],
      data: Payload.ofBytes(fields[3] ?? noBytes),
      timestampNs: fields[4],
      clientId: fields[5],
      id: fields[6],
    });
  },

  target: (_key, name) => protobufMessage([[1, name]]),

  error(message) {
    const { 1: code = "", 2: text = "" } = protobufFields("error reply", message.bytes(), { 1: "text", 2: "text" });
    return { code, message: text };
  },

  gap(message) {
    const kinds = { 1: "text", 2: "text", 3: "int64", 4: "int64", 5: "int64", 6: "text", 7: "int64" };
    const fields = protobufFields("gap notice", message.bytes(), kinds);
    const { 1: channel = "", 2: room = "", 3: count = 0n, 4: firstNs = 0n, 5: lastNs = 0n, 6: reason = "" } = fields;
    const { 7: all = 0n } = fields;
    return { channel, room, all: all !== 0n, count: Number(count), firstNs, lastNs, reason };
  },
};

/** Encodes pairs of a field number and a string, bytes or a BigInt. Zero values are omitted. */
function protobufMessage(pairs) {
  const fields = pairs
    .map(([number, value]) => [number, typeof value === "string" ? utf8Encoder.encode(value) : value])
    .filter(([, value]) => (typeof value === "bigint" ? value !== 0n : value.length > 0));
  // A field number below 16 has a tag of one byte; a varint takes at most ten bytes.
  const size = fields.reduce((sum, [, value]) => sum + 11 + (value.length ?? 0), 0);
  const writer = new Writer(size);
  for (const [number, value] of fields) {
    if (typeof value === "bigint") {
      writer.uint8((number << 3) | varintType);
      writer.varint(BigInt.asUintN(64, value));
    } else {
      writer.uint8((number << 3) | lengthType);
      writer.varint(BigInt(value.length));
      writer.bytes(value);
    }
  }
  return writer.done();
}

/**
 * Reads the fields listed in `kinds` and returns them by number. Like generated
 * code, it skips unknown fields and unexpected wire types, and keeps the last
 * value of a repeated field. Groups are an error: proto3 has none.
 */
function protobufFields(label, bytes, kinds) {
  const reader = new Reader(label, bytes);
  const fields = {};
  while (reader.left > 0) {
    const tag = reader.varint();
    const wireType = tag % 8;
    const number = (tag - wireType) / 8;
    if (number < 1 || number >= 2 ** 29) reader.fail("invalid field number");
    const kind = kinds[number];
    switch (wireType) {
      case varintType: {
        if (kind === "int64") fields[number] = reader.varint64();
        else reader.varint();
        break;
      }
      case fixed64Type:
        reader.take(8);
        break;
      case lengthType: {
        const value = reader.bytes(reader.varint());
        if (kind === "bytes") fields[number] = value;
        if (kind === "text") fields[number] = decodeUTF8(value, `${label}: field ${number}`);
        break;
      }
      case fixed32Type:
        reader.take(4);
        break;
      default:
        reader.fail(`unknown wire type ${wireType}`);
    }
  }
  return fields;
}

// FlatBuffers, with the schema proto/message.fbs

const flatSlots = ["type", "channel", "data", "timestamp", "client_id", "id"];

const flatbuffersCodec = {
  ...jsonControls,
  name: "flatbuffers",
  text: false,

  encode(message) {
    message = asMessage(message);
    const [type, channel, clientId, id] = encodedTexts(message);
    const data = payloadOf(message).bytes;
    const builder = new FlatBuilder(type.length + channel.length + data.length + clientId.length + id.length);
    const typeAt = builder.string(type);
    const channelAt = builder.string(channel);
    const dataAt = data.length > 0 ? builder.vector(data) : 0;
    const clientAt = builder.string(clientId);
    const idAt = id.length > 0 ? builder.string(id) : 0;
    return builder.finish([typeAt, channelAt, dataAt, message.timestampNs, clientAt, idAt]);
  },

  decode(frame) {
    const table = new FlatTable(frame);
    return new Message({
      type: table.text(0),
      channel: table.text(1),
      data: Payload.ofBytes(table.vector(2)),
      timestampNs: table.int64(3),
      clientId: table.text(4),
      id: table.text(5),
    });
  },
};

/**
 * Builds one table, from the end of the buffer to its start. Its output equals
 * the official builders' byte for byte. Positions count from the buffer's end.
 */
class FlatBuilder {
  #buffer;
  #view;
  #start;
  #alignment = 1;

  constructor(content) {
    // 128 bytes are enough for a table of six fields, its vtable, all lengths and padding.
    this.#buffer = new Uint8Array(content + 128);
    this.#view = new DataView(this.#buffer.buffer);
    this.#start = this.#buffer.length;
  }

  get #position() {
    return this.#buffer.length - this.#start;
  }

  /** Adds padding so that a value of `size` bytes is aligned after `further` more bytes. */
  #align(size, further = 0) {
    this.#alignment = Math.max(this.#alignment, size);
    this.#start -= -(this.#position + further) & (size - 1);
  }

  #uint32(value) {
    this.#align(4);
    this.#start -= 4;
    this.#view.setUint32(this.#start, value, true);
  }

  #uint16(value) {
    this.#start -= 2;
    this.#view.setUint16(this.#start, value, true);
  }

  #int64(value) {
    this.#align(8);
    this.#start -= 8;
    this.#view.setBigInt64(this.#start, value, true);
  }

  vector(bytes) {
    this.#align(4, bytes.length);
    this.#start -= bytes.length;
    this.#buffer.set(bytes, this.#start);
    this.#uint32(bytes.length);
    return this.#position;
  }

  /** Writes a vector followed by a zero byte, which its length does not include. */
  string(bytes) {
    this.#align(4, bytes.length + 1);
    this.#start--;
    return this.vector(bytes);
  }

  /** Writes the table. Each slot is a position or a BigInt. Zero values are omitted. */
  finish(slots) {
    const tableEnd = this.#position;
    const fields = slots.map((value) => {
      if (!value) return 0;
      if (typeof value === "bigint") {
        this.#int64(value);
      } else {
        this.#align(4);
        this.#uint32(this.#position + 4 - value);
      }
      return this.#position;
    });
    this.#uint32(0); // replaced below by the offset of the vtable
    const table = this.#position;
    while (fields.at(-1) === 0) fields.pop();
    for (const field of fields.reverse()) this.#uint16(field && table - field);
    this.#uint16(table - tableEnd);
    this.#uint16(4 + 2 * fields.length);
    this.#view.setInt32(this.#buffer.length - table, this.#position - table, true);
    this.#align(this.#alignment, 4);
    this.#uint32(this.#position + 4 - table);
    return this.#buffer.subarray(this.#start);
  }
}

/** Reads one table. It checks every offset and length before using it. */
class FlatTable {
  #bytes;
  #view;
  #table;
  #vtable;
  #slots;

  constructor(bytes) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#table = this.#uint32(0, "root offset");
    this.#checkBounds(this.#table, 4, "table");
    this.#vtable = this.#table - this.#view.getInt32(this.#table, true);
    this.#checkBounds(this.#vtable, 4, "vtable");
    const size = this.#view.getUint16(this.#vtable, true);
    if (size < 4 || size % 2 !== 0) throw new DecodeError(`flatbuffers: impossible vtable size ${size}`);
    this.#checkBounds(this.#vtable, size, "vtable");
    this.#slots = (size - 4) / 2;
  }

  #checkBounds(position, length, label) {
    if (position < 0 || position + length > this.#bytes.length) {
      throw new DecodeError(`flatbuffers: ${label} at byte ${position} is outside the buffer`);
    }
  }

  #uint32(position, label) {
    this.#checkBounds(position, 4, label);
    return this.#view.getUint32(position, true);
  }

  /** Returns the position of a field, or 0 if the table does not have the field. */
  #field(slot) {
    if (slot >= this.#slots) return 0;
    const offset = this.#view.getUint16(this.#vtable + 4 + 2 * slot, true);
    return offset && this.#table + offset;
  }

  vector(slot) {
    const field = this.#field(slot);
    if (field === 0) return noBytes;
    const label = flatSlots[slot];
    const start = field + this.#uint32(field, label);
    const length = this.#uint32(start, label);
    this.#checkBounds(start + 4, length, label);
    return this.#bytes.subarray(start + 4, start + 4 + length);
  }

  text(slot) {
    return decodeUTF8(this.vector(slot), `flatbuffers: ${flatSlots[slot]}`);
  }

  int64(slot) {
    const field = this.#field(slot);
    if (field === 0) return 0n;
    this.#checkBounds(field, 8, flatSlots[slot]);
    return this.#view.getBigInt64(field, true);
  }
}

// MessagePack

const msgpackCodec = {
  ...jsonControls,
  name: "msgpack",
  text: false,

  encode(message) {
    message = asMessage(message);
    const [type, channel, clientId, id] = encodedTexts(message);
    const data = payloadOf(message).bytes;
    // The headers of the map and its keys take 42 bytes, those of the values at most 34.
    const writer = new Writer(80 + type.length + channel.length + data.length + clientId.length + id.length);
    writer.uint8(0x80 | (id.length > 0 ? 6 : 5));
    writeField(writer, msgpackKeys.type, msgpackStr, type);
    writeField(writer, msgpackKeys.channel, msgpackStr, channel);
    writeField(writer, msgpackKeys.data, msgpackBin, data);
    writer.bytes(msgpackKeys.timestamp);
    writer.uint8(0xd3);
    writer.int64(message.timestampNs);
    writeField(writer, msgpackKeys.clientId, msgpackStr, clientId);
    if (id.length > 0) writeField(writer, msgpackKeys.id, msgpackStr, id);
    return writer.done();
  },

  decode(frame) {
    const reader = new MsgpackReader("msgpack", frame);
    const fields = {};
    for (let members = reader.mapHeader(); members > 0; members--) {
      const key = reader.text("map key");
      switch (key) {
        case "type":
        case "channel":
        case "client_id":
        case "id":
          fields[key] = reader.text(key);
          break;
        case "data":
          fields.data = Payload.ofBytes(reader.binary("data", true));
          break;
        case "timestamp":
          fields.timestampNs = reader.integer("timestamp");
          break;
        default:
          reader.skip();
      }
    }
    if (reader.left > 0) reader.fail("bytes after the message");
    return new Message({ ...fields, clientId: fields.client_id });
  },
};

/** Format bytes, by the bits of the length that follows. A fix format contains the length itself. */
const msgpackStr = { fix: 0xa0, fixMax: 31, 8: 0xd9, 16: 0xda, 32: 0xdb };
const msgpackBin = { fix: 0, fixMax: -1, 8: 0xc4, 16: 0xc5, 32: 0xc6 };
const msgpackNil = 0xc0;

const msgpackKey = (key) => Uint8Array.of(msgpackStr.fix | key.length, ...utf8Encoder.encode(key));
const msgpackKeys = {
  type: msgpackKey("type"),
  channel: msgpackKey("channel"),
  data: msgpackKey("data"),
  timestamp: msgpackKey("timestamp"),
  clientId: msgpackKey("client_id"),
  id: msgpackKey("id"),
};

function writeField(writer, key, format, value) {
  writer.bytes(key);
  if (format === msgpackBin && value.length === 0) {
    writer.uint8(msgpackNil);
  } else {
    writer.header(format, value.length);
    writer.bytes(value);
  }
}

// Readers and writers of bytes

/** Writes into a buffer of fixed capacity. The caller makes it large enough. */
class Writer {
  #bytes;
  #view;
  #length = 0;

  constructor(capacity) {
    this.#bytes = new Uint8Array(capacity);
    this.#view = new DataView(this.#bytes.buffer);
  }

  uint8(value) {
    this.#bytes[this.#length++] = value;
  }

  int64(value) {
    this.#view.setBigInt64(this.#length, value);
    this.#length += 8;
  }

  varint(value) {
    for (; value > 127n; value >>= 7n) this.uint8(Number(value & 127n) | 128);
    this.uint8(Number(value));
  }

  bytes(bytes) {
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** Writes the header of a MessagePack str or bin. */
  header(format, length) {
    if (length <= format.fixMax) {
      this.uint8(format.fix | length);
      return;
    }
    const bits = length < 2 ** 8 ? 8 : length < 2 ** 16 ? 16 : 32;
    this.uint8(format[bits]);
    for (let shift = bits - 8; shift >= 0; shift -= 8) this.uint8(length >>> shift);
  }

  done() {
    return this.#bytes.subarray(0, this.#length);
  }
}

/** Reads bytes front to back. Its errors contain the reason and the position. */
class Reader {
  #label;
  #bytes;
  #position = 0;

  constructor(label, bytes) {
    this.#label = label;
    this.#bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  get left() {
    return this.#bytes.length - this.#position;
  }

  fail(reason) {
    throw new DecodeError(`${this.#label}: ${reason} at byte ${this.#position}`);
  }

  /** Skips `length` bytes and returns the position of the first of them. */
  take(length) {
    if (length > this.left) this.fail(`${length} bytes wanted, ${this.left} left`);
    const start = this.#position;
    this.#position += length;
    return start;
  }

  bytes(length) {
    const start = this.take(length);
    return this.#bytes.subarray(start, start + length);
  }

  uint8() {
    return this.#bytes[this.take(1)];
  }

  /** Reads a varint as a number, which is exact up to 2^53 and approximate above. */
  varint() {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.uint8();
      if (scale === 2 ** 63 && byte > 1) this.fail("varint longer than 64 bits");
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  }

  /** Reads a varint as a signed 64-bit BigInt. */
  varint64() {
    let value = 0n;
    const start = this.#position;
    this.varint();
    for (let i = this.#position - 1; i >= start; i--) value = (value << 7n) | BigInt(this.#bytes[i] & 127);
    return BigInt.asIntN(64, value);
  }
}

class MsgpackReader extends Reader {
  mapHeader() {
    const format = this.uint8();
    if (format >>> 4 === 0x8) return format & 0xf;
    if (format === 0xde) return this.#uint(2);
    if (format === 0xdf) return this.#uint(4);
    return this.fail("message is not a map");
  }

  /** Reads a str or nil. */
  text(label) {
    return decodeUTF8(this.binary(label, false), `msgpack: ${label}`);
  }

  /** Reads a str or nil, or a bin if `bin` is true. */
  binary(label, bin) {
    const format = this.uint8();
    const length = this.#length(msgpackStr, format) ?? (bin ? this.#length(msgpackBin, format) : undefined);
    if (length !== undefined) return this.bytes(length);
    if (format !== msgpackNil) this.fail(`${label} is not a string${bin ? " or bin" : ""}`);
    return noBytes;
  }

  /** Reads an integer of any size, or nil as 0. */
  integer(label) {
    const format = this.uint8();
    if (format < 0x80) return BigInt(format);
    if (format >= 0xe0) return BigInt(format - 0x100);
    const { view } = this;
    switch (format) {
      case msgpackNil:
        return 0n;
      case 0xcc:
      case 0xcd:
      case 0xce:
        return BigInt(this.#uint(2 ** (format - 0xcc)));
      case 0xcf: {
        const value = view.getBigUint64(this.take(8));
        if (value >= 2n ** 63n) this.fail(`${label} does not fit in 64 bits`);
        return value;
      }
      case 0xd0:
        return BigInt(view.getInt8(this.take(1)));
      case 0xd1:
        return BigInt(view.getInt16(this.take(2)));
      case 0xd2:
        return BigInt(view.getInt32(this.take(4)));
      case 0xd3:
        return view.getBigInt64(this.take(8));
      default:
        return this.fail(`${label} is not an integer`);
    }
  }

  /**
   * Skips one value and everything nested in it, without recursion. Every value
   * takes at least one byte, so a forged count fails at the end of the input.
   */
  skip() {
    for (let values = 1; values > 0; values--) values += this.#skipHeader();
  }

  /** Skips one value except for its nested values, and returns their number. */
  #skipHeader() {
    const format = this.uint8();
    const length = this.#length(msgpackStr, format) ?? this.#length(msgpackBin, format);
    if (length !== undefined) return this.#pass(length);
    if (format < 0x80 || format >= 0xe0) return 0; // small integers
    if (format < 0x90) return 2 * (format & 0xf); // fixmap
    if (format < 0xa0) return format & 0xf; // fixarray
    switch (format) {
      case msgpackNil:
      case 0xc2: // false
      case 0xc3: // true
        return 0;
      case 0xc7: // ext: one more byte for the type
      case 0xc8:
      case 0xc9:
        return this.#pass(1 + this.#uint(2 ** (format - 0xc7)));
      case 0xca: // floats
      case 0xcb:
        return this.#pass(2 ** (format - 0xc8));
      case 0xcc: // unsigned integers
      case 0xcd:
      case 0xce:
      case 0xcf:
        return this.#pass(2 ** (format - 0xcc));
      case 0xd0: // signed integers
      case 0xd1:
      case 0xd2:
      case 0xd3:
        return this.#pass(2 ** (format - 0xd0));
      case 0xd4: // fixext
      case 0xd5:
      case 0xd6:
      case 0xd7:
      case 0xd8:
        return this.#pass(1 + 2 ** (format - 0xd4));
      case 0xdc: // arrays
      case 0xdd:
        return this.#uint(format === 0xdc ? 2 : 4);
      case 0xde: // maps
      case 0xdf:
        return 2 * this.#uint(format === 0xde ? 2 : 4);
      default:
        return this.fail("unknown format byte");
    }
  }

  #pass(length) {
    this.take(length);
    return 0;
  }

  /** Reads the length after a format byte of this kind; undefined if it is of another. */
  #length(kind, format) {
    if (kind === msgpackStr && format >= 0xa0 && format <= 0xbf) return format & 0x1f;
    if (format === kind[8]) return this.#uint(1);
    if (format === kind[16]) return this.#uint(2);
    if (format === kind[32]) return this.#uint(4);
    return undefined;
  }

  #uint(size) {
    const at = this.take(size);
    if (size === 1) return this.view.getUint8(at);
    return size === 2 ? this.view.getUint16(at) : this.view.getUint32(at);
  }
}

/** The codecs, by the name of their subprotocol. */
export const codecs = Object.freeze({
  json: jsonCodec,
  protobuf: protobufCodec,
  flatbuffers: flatbuffersCodec,
  msgpack: msgpackCodec,
});

// Security

const nonceSize = 12;
const tagSize = 16;
const macSize = 32;
const maxOverhead = macSize + nonceSize + tagSize;

/** Seals and opens messages. It imports the keys once. */
export class Sealer {
  #aesKey;
  #hmacKey;
  #sealSteps;
  #openSteps;

  constructor({ aesKey, hmacKey, signThenEncrypt = true }) {
    if (!aesKey && !hmacKey) throw new TypeError("security needs an aesKey, an hmacKey or both");
    if (!globalThis.crypto?.subtle) {
      throw new HubError("security", "WebCrypto is missing; browsers provide it only to https and localhost pages");
    }
    const seal = [];
    const open = [];
    if (hmacKey) {
      if (keyBytes(hmacKey).length === 0) throw new TypeError("hmacKey is empty");
      this.#hmacKey = importKey(hmacKey, { name: "HMAC", hash: "SHA-256" }, ["sign", "verify"]);
      seal.push((bytes) => this.#sign(bytes));
      open.push((bytes) => this.#verify(bytes));
    }
    if (aesKey) {
      if (keyBytes(aesKey).length !== 32) throw new TypeError("aesKey is not 32 bytes");
      this.#aesKey = importKey(aesKey, "AES-GCM", ["encrypt", "decrypt"]);
      seal.push((bytes) => this.#encrypt(bytes));
      open.push((bytes) => this.#decrypt(bytes));
    }
    this.#sealSteps = signThenEncrypt ? seal : seal.reverse();
    this.#openSteps = signThenEncrypt ? open.reverse() : open;
  }

  /** The number of bytes that sealing adds to a message. */
  get overhead() {
    return (this.#hmacKey ? macSize : 0) + (this.#aesKey ? nonceSize + tagSize : 0);
  }

  /** Signs and encrypts, in the configured order. */
  async seal(bytes) {
    for (const step of this.#sealSteps) bytes = await step(bytes);
    return bytes;
  }

  /** Reverses seal. Rejects with a HubError "security" if the bytes were altered or have other keys. */
  async open(bytes) {
    for (const step of this.#openSteps) bytes = await step(bytes);
    return bytes;
  }

  async #sign(bytes) {
    const mac = await crypto.subtle.sign("HMAC", await this.#hmacKey, bytes);
    return concat(new Uint8Array(mac), bytes);
  }

  async #verify(bytes) {
    if (bytes.length < macSize) throw new HubError("security", "message is too short for a signature");
    const data = bytes.subarray(macSize);
    const genuine = await crypto.subtle.verify("HMAC", await this.#hmacKey, bytes.subarray(0, macSize), data);
    if (!genuine) throw new HubError("security", "signature does not match");
    return data;
  }

  async #encrypt(bytes) {
    const iv = crypto.getRandomValues(new Uint8Array(nonceSize));
    const sealed = await crypto.subtle.encrypt({ name: "AES-GCM", iv }, await this.#aesKey, bytes);
    return concat(iv, new Uint8Array(sealed));
  }

  async #decrypt(bytes) {
    if (bytes.length < nonceSize + tagSize) throw new HubError("security", "message is too short to be encrypted");
    const iv = bytes.subarray(0, nonceSize);
    const key = await this.#aesKey;
    try {
      return new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv }, key, bytes.subarray(nonceSize)));
    } catch (cause) {
      throw new HubError("security", "message cannot be decrypted", { cause });
    }
  }
}

function keyBytes(key) {
  if (!isBinary(key)) throw new TypeError("a key must be bytes; use fromHex or fromBase64 to convert text");
  return viewOf(key);
}

function importKey(key, algorithm, usages) {
  // Copied, because importKey may read the key after the caller has wiped it.
  const imported = crypto.subtle.importKey("raw", keyBytes(key).slice(), algorithm, false, usages);
  imported.catch(noop); // seal and open await the key and report the failure
  return imported;
}

// Connection

/** How long to wait for the hub's Close frame before terminating the socket, in milliseconds. */
const closeTimeout = 1000;

/**
 * One WebSocket, from its handshake to its end. It delivers messages and sends
 * frames in order, although sealing and opening are asynchronous.
 *
 * `on` has opened(), message(message) and ended({code, reason, error}). ended is
 * called at most once, after the last message, and not after a call of close.
 */
class Connection {
  #socket;
  #codec;
  #sealer;
  #on;
  #idleTimeout;
  #idleTimer;
  #ended = false;
  #failure; // the error of the socket's error event
  #inbound = Promise.resolve(); // settles when all received frames are opened and delivered
  #outbound = Promise.resolve(); // settles when all frames to send are sealed and sent
  #sealing = 0; // bytes of the frames that #outbound waits for
  #socketClosed; // resolves with the socket's close event

  /** When the last frame arrived or the connection opened, in Unix milliseconds; 0 before that. */
  lastReceived = 0;

  constructor({ WebSocket, url, protocols, codec, sealer, idleTimeout, on }) {
    this.#codec = codec;
    this.#sealer = sealer;
    this.#idleTimeout = idleTimeout;
    this.#on = on;
    const socket = (this.#socket = new WebSocket(url, protocols));
    socket.binaryType = "arraybuffer";
    this.#socketClosed = new Promise((resolve) => socket.addEventListener("close", resolve));
    socket.addEventListener("open", () => this.#opened());
    socket.addEventListener("message", ({ data }) => this.#received(data));
    socket.addEventListener("error", ({ error, message }) => {
      this.#failure = error ?? (message ? new Error(message) : undefined);
      // Some platforms emit no close event for a connection that never opened.
      if (this.lastReceived === 0) this.#end({ code: 1006, reason: "", error: this.#failure });
    });
    socket.addEventListener("close", ({ code, reason }) => {
      this.#inOrder(() => this.#end({ code, reason, error: this.#failure }));
    });
    // Sockets of the ws package report pings, which prove that the connection is alive.
    socket.on?.("ping", () => this.#markReceived());
  }

  /** The number of bytes that were passed to send but not written to the network yet. */
  get buffered() {
    return this.#sealing + this.#socket.bufferedAmount;
  }

  send(frame) {
    if (!this.#sealer) {
      this.#socket.send(frame);
      return;
    }
    this.#sealing += frame.length;
    const sealed = this.#sealer.seal(typeof frame === "string" ? utf8Encoder.encode(frame) : frame);
    sealed.catch(noop); // handled below, after the frames before it
    this.#outbound = this.#outbound.then(async () => {
      try {
        this.#socket.send(await sealed);
      } catch (error) {
        this.fail(1008, error);
      }
      this.#sealing -= frame.length;
    });
  }

  /**
   * Closes the connection after sending the frames passed to send before. It does
   * not call `on`. Resolves when the socket is closed or was terminated.
   */
  async close(code, reason) {
    this.#finish();
    await this.#outbound;
    await this.#closeSocket(code, reason);
  }

  /**
   * Ends the connection because of an error or a timeout. Browsers do not let
   * scripts send codes below 3000, so the hub receives 4007 for 1007.
   */
  fail(code, error) {
    if (this.#end({ code, reason: error.message, error })) {
      void this.#closeSocket(code < 3000 ? code + 3000 : code, error.message);
    }
  }

  #opened() {
    if (this.#ended) return;
    const { protocol } = this.#socket;
    if (protocol !== this.#codec.name && (protocol !== "" || this.#codec.name !== "json")) {
      const message = `the server selected subprotocol ${JSON.stringify(protocol)}, not "${this.#codec.name}"`;
      this.fail(1002, new HubError("malformed", message));
      return;
    }
    this.#markReceived();
    if (this.#idleTimeout > 0) this.#checkIdleIn(this.#idleTimeout);
    this.#on.opened();
  }

  #markReceived() {
    this.lastReceived = Date.now();
  }

  /** Rechecks at the earliest possible timeout, so that messages need not reset the timer. */
  #checkIdleIn(delay) {
    this.#idleTimer = setTimeout(() => {
      const left = this.lastReceived + this.#idleTimeout - Date.now();
      if (left > 0) this.#checkIdleIn(left);
      else this.fail(3008, new HubError("timeout", `received nothing for ${this.#idleTimeout} ms`));
    }, delay);
  }

  #received(data) {
    if (this.#ended) return;
    this.#markReceived();
    const frame = typeof data === "string" ? data : new Uint8Array(data);
    if (!this.#sealer) {
      this.#deliver(frame);
      return;
    }
    if (typeof frame === "string") {
      const error = new HubError("security", "received a text frame, but sealed frames are binary");
      this.#inOrder(() => this.fail(1003, error));
      return;
    }
    const opened = this.#sealer.open(frame);
    opened.catch(noop); // handled below, after the frames before it
    this.#inOrder(async () => {
      try {
        const plain = await opened;
        this.#deliver(this.#codec.text ? decodeUTF8(plain, "json") : plain);
      } catch (error) {
        this.fail(error instanceof DecodeError ? 1007 : 1008, error);
      }
    });
  }

  #deliver(frame) {
    if (this.#ended) return;
    if ((typeof frame === "string") !== this.#codec.text) {
      const hint = this.#codec.text ? "text; does the hub seal messages?" : "binary";
      this.fail(1003, new HubError("malformed", `the hub's frame is not ${hint}`));
      return;
    }
    try {
      this.#on.message(this.#codec.decode(frame));
    } catch (error) {
      this.fail(1007, error);
    }
  }

  /** Runs `task` after all frames received so far have been delivered. */
  #inOrder(task) {
    if (this.#sealer) this.#inbound = this.#inbound.then(task);
    else task();
  }

  #finish() {
    this.#ended = true;
    clearTimeout(this.#idleTimer);
  }

  #end(close) {
    if (this.#ended) return false;
    this.#finish();
    this.#on.ended(close);
    return true;
  }

  async #closeSocket(code, reason) {
    let timer;
    const timedOut = new Promise((resolve) => (timer = setTimeout(resolve, closeTimeout)));
    this.#socket.close(code, trimReason(reason));
    await Promise.race([this.#socketClosed, timedOut]);
    clearTimeout(timer);
    this.#socket.terminate?.(); // browsers have no terminate and use a timeout of their own
  }
}

/** Cuts a reason to the 123 bytes that fit into a Close frame. */
function trimReason(reason) {
  const room = new Uint8Array(123);
  return reason.slice(0, utf8Encoder.encodeInto(reason, room).read);
}

// Client

/** The kinds of membership: the message types that begin and end one, and its key in control data. */
const channelKind = { join: "subscribe", leave: "unsubscribe", key: "channel" };
const roomKind = { join: "join_room", leave: "leave_room", key: "room_id" };
const membershipTypes = new Set([channelKind, roomKind].flatMap(({ join, leave }) => [join, leave]));

/** A channel or room that the client has joined or is joining. It is kept when the connection is lost. */
class Membership {
  /** Calls that wait for the hub's reply. */
  calls = new Set();
  /** True after the join was sent on this connection. */
  requested = false;
  /** True after the hub acknowledged the join on this connection. */
  confirmed = false;
  /** True after the leave was sent. Messages that arrive after that are discarded. */
  leaving = false;

  constructor(kind, name, handler) {
    this.kind = kind;
    this.name = name;
    this.handler = handler;
  }
}

/** One call of the application, with its timeout and signal. `onSettled` runs when its promise settles. */
class Call {
  /** True if the request may have reached the hub. */
  sent = false;

  #settled = false;
  #onSettled;
  #resolve;
  #reject;
  #timer;
  #signal;
  #abort = () => this.reject(new HubError("aborted", "the call was aborted", { cause: this.#signal.reason }));

  constructor({ timeout, signal }, onSettled) {
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#onSettled = onSettled;
    if (timeout > 0 && timeout <= maxTimeout) {
      this.#timer = setTimeout(() => this.reject(new HubError("timeout", `no reply within ${timeout} ms`)), timeout);
    }
    this.#signal = signal;
    signal?.addEventListener("abort", this.#abort);
  }

  resolve() {
    if (this.#settle()) this.#resolve();
  }

  /** Rejects without the hub's reply. The hub may have carried out a request that was sent. */
  reject(error) {
    error.outcomeUnknown = this.sent;
    if (this.#settle()) this.#reject(error);
  }

  /** Rejects when the outcome is known, as it is after the hub's error reply. */
  rejectKnown(error) {
    if (this.#settle()) this.#reject(error);
  }

  #settle() {
    if (this.#settled) return false;
    this.#settled = true;
    clearTimeout(this.#timer);
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#onSettled();
    return true;
  }
}

/** The longest delay of setTimeout, in milliseconds. A longer timeout never expires. */
const maxTimeout = 2 ** 31 - 1;

const defaults = {
  codec: "json",
  timeout: 10_000,
  handshakeTimeout: 10_000,
  idleTimeout: 0,
  maxMessageSize: 524_288,
  maxPending: 1024,
  maxQueuedBytes: 4 << 20,
};

const defaultBackoff = { base: 500, max: 30_000, resetAfter: 10_000 };

/**
 * Creates a client and resolves with it when it is open. Rejects and closes the
 * client if the first attempt fails, whereas `new HubClient` keeps trying.
 */
export async function connect(url, options) {
  const client = new HubClient(url, options);
  try {
    await firstAttemptOf(client);
  } catch (error) {
    await client.close();
    throw error;
  }
  return client;
}

let firstAttemptOf;

/** A client that reconnects until it is closed. */
export class HubClient {
  /** The callbacks may be replaced at any time. */
  onStateChange;
  onMessage;
  onGap;
  onResumed;
  onError;

  #url;
  #options;
  #codec;
  #sealer;

  #state = "connecting";
  #connection; // the current one, from its handshake to its end
  #dialing; // the AbortController of the latest attempt
  #retryTimer;
  #failures = 0; // consecutive failures, which determine the backoff
  #openedAt;
  #firstAttempt = deferred();
  #closed; // resolves when the last connection has ended

  #channels = new Map(); // name -> Membership
  #rooms = new Map();
  #restoring = new Set(); // memberships that the hub has not confirmed on this connection
  #missed; // {from, lastTimestampNs} of a lost connection, until onResumed is called
  #lastTimestampNs = 0n;

  #calls = new Set(); // not settled yet
  #replyHandlers = new Map(); // request ID -> {ack(), error(error), lost(error)}
  #lastId = 0;
  #queue = new Set(); // {frame, call}, to send when the connection opens
  #queuedBytes = 0;

  static {
    firstAttemptOf = (client) => client.#firstAttempt.promise;
  }

  constructor(url, options = {}) {
    this.#url = String(url);
    this.#options = withDefaults(options);
    this.#codec = codecs[this.#options.codec];
    if (options.security) this.#sealer = new Sealer(options.security);
    const { onStateChange, onMessage, onGap, onResumed, onError } = options;
    Object.assign(this, { onStateChange, onMessage, onGap, onResumed, onError });
    // Callbacks may use the variable that the caller assigns this client to.
    queueMicrotask(() => this.#start());
  }

  /** "connecting", "open", "reconnecting" or "closed". */
  get state() {
    return this.#state;
  }

  /**
   * Subscribes to a channel and passes its messages to `handler`. The client
   * restores the subscription when it reconnects. Subscribing again replaces the
   * handler. If the promise rejects, the client is not subscribed, unless
   * another call for the channel succeeds.
   */
  async subscribe(channel, handler, options) {
    return this.#join(channelKind, channel, handler, options);
  }

  /** Ends a subscription. Its handler is not called again. */
  async unsubscribe(channel, options) {
    return this.#leave(channelKind, channel, options);
  }

  /** Joins a room, as subscribe does for a channel. */
  async joinRoom(room, handler, options) {
    return this.#join(roomKind, room, handler, options);
  }

  /** Leaves a room, as unsubscribe does for a channel. */
  async leaveRoom(room, options) {
    return this.#leave(roomKind, room, options);
  }

  /** Publishes a JSON value or bytes to the subscribers of a channel. */
  async publish(channel, data, options) {
    return this.#request({ type: "publish", channel: checkName(channel), data }, options).promise;
  }

  /** Publishes a JSON value or bytes to the members of a room. */
  async publishRoom(room, data, options) {
    return this.#request({ type: "publish_room", channel: checkName(room), data }, options).promise;
  }

  /** Broadcasts a JSON value or bytes to every client of the hub. */
  async broadcast(data, options) {
    return this.#request({ type: "broadcast", data }, options).promise;
  }

  /**
   * Sends a message of an application-defined type to the server, which does not
   * acknowledge it. Throws if the message can be neither sent nor queued.
   */
  send(type, data, { channel } = {}) {
    if (typeof type !== "string") throw new TypeError("a message type must be a string");
    if (membershipTypes.has(type)) throw new TypeError(`send does not send ${type}; call the client's method for it`);
    this.#checkNotClosed();
    this.#transmit({ frame: this.#codec.encode({ type, channel, data }) });
  }

  /**
   * Closes the client permanently: it calls no handlers any more and rejects the
   * calls that have no reply. Resolves when the connection has ended.
   */
  async close(code = 1000, reason = "") {
    if (code !== 1000 && !(code >= 3000 && code <= 4999)) throw new RangeError(`cannot send close code ${code}`);
    if (this.#state !== "closed") {
      this.#closed = this.#connection?.close(code, reason);
      this.#finish({ code, reason });
    }
    await this.#closed;
  }

  // Connecting

  #start() {
    if (this.#state === "closed") return;
    const { signal } = this.#options;
    signal?.addEventListener("abort", this.#abort);
    if (signal?.aborted) this.#abort();
    else this.#dial();
  }

  #abort = () => {
    const cause = this.#options.signal.reason;
    this.#firstAttempt.reject(new HubError("aborted", "connecting was aborted", { cause }));
    this.close();
  };

  /** Gets a token and opens a connection, both within handshakeTimeout. */
  async #dial() {
    if (this.#state === "closed") return;
    const { WebSocket, handshakeTimeout, idleTimeout } = this.#options;
    const dialing = (this.#dialing = new AbortController());
    const onTimeout = () => dialing.abort(new HubError("timeout", `not connected within ${handshakeTimeout} ms`));
    const timer = setTimeout(onTimeout, handshakeTimeout);
    dialing.signal.addEventListener("abort", () => {
      clearTimeout(timer);
      this.#connection?.fail(1006, dialing.signal.reason);
    });

    let token, sealer;
    try {
      ({ token, sealer } = await this.#credentials(dialing.signal));
    } catch (error) {
      clearTimeout(timer);
      this.#lost({ code: 1006, reason: "no credentials", error });
      return;
    }
    if (this.#state === "closed") return;

    const protocols = [this.#codec.name];
    if (token) protocols.push(`bearer.${base64url(token)}`);
    const on = {
      opened: () => {
        clearTimeout(timer);
        this.#opened();
      },
      message: (message) => this.#received(message),
      ended: (close) => {
        clearTimeout(timer);
        this.#lost(close);
      },
    };
    try {
      const [url, codec] = [this.#url, this.#codec];
      this.#connection = new Connection({ WebSocket, url, protocols, codec, sealer, idleTimeout, on });
    } catch (error) {
      // The platform rejected the URL. It would reject it again, so there is no retry.
      clearTimeout(timer);
      this.#finish({ code: 1006, reason: error.message, error });
    }
  }

  /** Returns the token and the sealer of the next connection. Keys from getToken replace the options' keys. */
  async #credentials(signal) {
    const { token, getToken } = this.#options;
    const sealer = this.#sealer;
    if (!getToken) return { token, sealer };
    const given = await Promise.race([getToken(signal), aborted(signal)]);
    if (typeof given !== "object" || given === null) return { token: given, sealer };
    return { token: given.token, sealer: given.security ? new Sealer(given.security) : sealer };
  }

  /** Requests the memberships before it sends the queued messages, which may depend on them. */
  #opened() {
    this.#openedAt = Date.now();
    this.#restoring = new Set([...this.#channels.values(), ...this.#rooms.values()]);
    for (const membership of this.#restoring) this.#requestJoin(membership);
    for (const { frame, call } of this.#queue) {
      if (call) call.sent = true;
      this.#connection.send(frame);
    }
    this.#queue.clear();
    this.#queuedBytes = 0;
    const previous = this.#state;
    this.#state = "open";
    this.#firstAttempt.resolve();
    this.#notifyState(previous);
    this.#notifyResumed();
  }

  /** Handles the end of a connection or a failed attempt. */
  #lost(close) {
    if (this.#state === "closed") return;
    const previous = this.#state;
    if (previous === "open") this.#resetConnectionState(close);
    this.#connection = undefined;
    this.#state = "reconnecting";
    const again = this.#reconnects(close);
    if (!again) this.#finish(close, previous);
    if (this.#state === "closed") return;
    // Full jitter spreads out the clients that reconnect to a restarted hub.
    const { base, max } = this.#options.backoff;
    const retryIn = Math.random() * Math.min(max, base * 2 ** this.#failures);
    this.#failures++;
    this.#retryTimer = setTimeout(() => this.#dial(), retryIn);
    this.#firstAttempt.reject(unreachableError(close));
    this.#notifyState(previous, { ...close, retryIn });
  }

  /** Marks all memberships as unconfirmed and fails the requests that have no reply. */
  #resetConnectionState({ code, reason, error }) {
    this.#missed ??= { from: this.#connection.lastReceived, lastTimestampNs: this.#lastTimestampNs };
    if (Date.now() - this.#openedAt >= this.#options.backoff.resetAfter) this.#failures = 0;
    for (const memberships of [this.#channels, this.#rooms]) {
      for (const membership of memberships.values()) {
        if (membership.leaving) memberships.delete(membership.name);
        membership.requested = membership.confirmed = false;
      }
    }
    const handlers = [...this.#replyHandlers.values()];
    this.#replyHandlers.clear();
    for (const { lost } of handlers) {
      lost(new HubError("disconnected", `the connection was lost: ${code} ${reason}`, { cause: error }));
    }
  }

  #reconnects({ code, reason }) {
    let decision;
    this.#run(() => (decision = this.#options.shouldReconnect?.({ code, reason })));
    if (typeof decision === "boolean") return decision;
    const { reconnect = false } = closeCodes[code] ?? {};
    return reconnect === "credentials" ? this.#options.getToken !== undefined : reconnect;
  }

  #finish(close, previous = this.#state) {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#options.signal?.removeEventListener("abort", this.#abort);
    clearTimeout(this.#retryTimer);
    this.#connection = undefined;
    this.#dialing?.abort();
    this.#channels.clear();
    this.#rooms.clear();
    this.#firstAttempt.reject(unreachableError(close));
    for (const call of this.#calls) call.reject(closedError());
    this.#replyHandlers.clear();
    this.#queue.clear();
    this.#notifyState(previous, close);
  }

  #notifyState(previous, close) {
    this.#run(this.onStateChange, { state: this.#state, previous, ...close });
  }

  /** Calls onResumed when all memberships are restored after a lost connection. */
  #notifyResumed() {
    if (this.#state !== "open" || !this.#missed || this.#restoring.size > 0) return;
    const missed = this.#missed;
    this.#missed = undefined;
    const [channels, rooms] = [[...this.#channels.keys()], [...this.#rooms.keys()]];
    this.#run(this.onResumed, { ...missed, to: Date.now(), channels, rooms });
  }

  // Receiving

  #received(message) {
    if (message.timestampNs > 0n) this.#lastTimestampNs = message.timestampNs;
    switch (message.type) {
      case "ack":
        this.#takeReplyHandler(message.id)?.ack();
        return;
      case "error":
        this.#receivedError(message);
        return;
      case "gap":
        this.#run(this.onGap, this.#codec.gap(message));
        return;
      default: {
        const membership = this.#membershipOf(message);
        if (!membership) this.#run(this.onMessage, message);
        else if (!membership.leaving) this.#run(membership.handler, message);
      }
    }
  }

  #receivedError(message) {
    const { code, message: text } = this.#codec.error(message);
    const error = new HubError(code, text, { target: message.channel });
    // A call that timed out or was aborted has no handler: it rejected with an unknown outcome.
    if (message.id === "") this.#report(error);
    else this.#takeReplyHandler(message.id)?.error(error);
  }

  #takeReplyHandler(id) {
    const handler = this.#replyHandlers.get(id);
    this.#replyHandlers.delete(id);
    return handler;
  }

  /** Application-defined types do not say whether `channel` names a channel or a room. */
  #membershipOf({ type, channel }) {
    switch (type) {
      case "broadcast":
        return undefined;
      case "message":
        return this.#channels.get(channel);
      case "room_message":
        return this.#rooms.get(channel);
      default:
        return this.#channels.get(channel) ?? this.#rooms.get(channel);
    }
  }

  /** Calls a function of the application and reports its errors. */
  #run(callback, argument) {
    try {
      const result = callback?.(argument);
      if (typeof result?.then === "function") result.then(undefined, (cause) => this.#failed(cause));
    } catch (cause) {
      this.#failed(cause);
    }
  }

  #failed(cause) {
    const why = cause instanceof Error ? `: ${cause.message}` : "";
    this.#report(new HubError("handler", `a handler failed${why}`, { cause }));
  }

  #report(error) {
    const report = this.onError ?? console.error;
    try {
      Promise.resolve(report(error)).catch(console.error);
    } catch (failure) {
      console.error(failure);
    }
  }

  // Sending

  /** Sends a control message and returns the call that waits for the reply. */
  #request(fields, options, { acked, lost } = {}) {
    const id = String(++this.#lastId);
    const frame = this.#codec.encode({ ...fields, id });
    const entry = { frame };
    const call = this.#call(options, () => {
      this.#replyHandlers.delete(id);
      if (this.#queue.delete(entry)) this.#queuedBytes -= frame.length;
    });
    entry.call = call;
    this.#replyHandlers.set(id, {
      ack: () => {
        acked?.();
        call.resolve();
      },
      error: (error) => call.rejectKnown(error),
      lost: lost ? () => lost(call) : (error) => call.reject(error),
    });
    try {
      this.#transmit(entry);
    } catch (error) {
      call.reject(error);
    }
    return call;
  }

  #call(options, onSettled) {
    this.#checkNotClosed();
    const { timeout = this.#options.timeout, signal } = options ?? {};
    if (signal?.aborted) throw new HubError("aborted", "the call was aborted", { cause: signal.reason });
    if (this.#calls.size >= this.#options.maxPending) {
      throw new HubError("overflow", `${this.#calls.size} calls are waiting for a reply`);
    }
    const call = new Call({ timeout, signal }, () => {
      this.#calls.delete(call);
      onSettled();
    });
    this.#calls.add(call);
    return call;
  }

  /** Sends a frame, or queues it until the connection is open. */
  #transmit(entry) {
    const { frame, call } = entry;
    const { maxQueuedBytes } = this.#options;
    this.#checkSize(frame);
    const open = this.#state === "open";
    const waiting = open ? this.#connection.buffered : this.#queuedBytes;
    if (waiting + frame.length > maxQueuedBytes) {
      throw new HubError("overflow", `${waiting} bytes are waiting to be sent`);
    }
    if (open) {
      if (call) call.sent = true;
      this.#connection.send(frame);
    } else {
      this.#queue.add(entry);
      this.#queuedBytes += frame.length;
    }
  }

  /** Rejects frames above the hub's limit. The hub would close the connection, and the client with it. */
  #checkSize(frame) {
    const { getToken, maxMessageSize } = this.#options;
    const overhead = getToken ? maxOverhead : (this.#sealer?.overhead ?? 0);
    // A UTF-16 code unit takes at most three bytes of UTF-8.
    if (typeof frame === "string" && 3 * frame.length + overhead <= maxMessageSize) return;
    const size = byteLength(frame) + overhead;
    if (size > maxMessageSize) {
      throw new HubError("too_large", `the message has ${size} bytes; the limit is ${maxMessageSize}`);
    }
  }

  #checkNotClosed() {
    if (this.#state === "closed") throw closedError();
  }

  // Memberships

  #memberships(kind) {
    return kind === channelKind ? this.#channels : this.#rooms;
  }

  async #join(kind, name, handler, options) {
    checkName(name);
    if (typeof handler !== "function") throw new TypeError("the handler must be a function");
    this.#checkSize(this.#codec.encode(this.#control("join", { kind, name })));
    const memberships = this.#memberships(kind);
    let membership = memberships.get(name);
    if (!membership || membership.leaving) membership = new Membership(kind, name, handler);
    if (membership.confirmed) {
      membership.handler = handler;
      return;
    }
    const call = this.#call(options, () => this.#joinSettled(membership, call));
    membership.handler = handler;
    membership.calls.add(call);
    memberships.set(name, membership);
    if (this.#state === "open") this.#requestJoin(membership);
    await call.promise;
  }

  /** Asks the hub for a membership, unless the client already did so on this connection. */
  #requestJoin(membership) {
    const { calls } = membership;
    if (membership.requested) return;
    membership.requested = true;
    const id = String(++this.#lastId);
    this.#replyHandlers.set(id, {
      ack: () => {
        membership.confirmed = true;
        for (const call of calls) call.resolve();
        this.#restored(membership);
      },
      error: (error) => this.#joinRejected(membership, error),
      lost: noop, // the next connection asks again
    });
    for (const call of calls) call.sent = true;
    this.#connection.send(this.#codec.encode({ ...this.#control("join", membership), id }));
  }

  #joinRejected(membership, error) {
    const { calls } = membership;
    if (!this.#isCurrent(membership) || membership.leaving) return;
    const isRestore = calls.size === 0;
    if (isRestore && error.code === "unavailable") {
      // The hub is shutting down and rejects all requests; the next connection asks again.
      membership.requested = false;
      return;
    }
    this.#remove(membership);
    for (const call of calls) call.rejectKnown(error);
    if (isRestore) this.#report(error);
  }

  /** Ends a membership if its last call timed out or was aborted before the hub confirmed it. */
  #joinSettled(membership, call) {
    const { calls, requested, confirmed, leaving } = membership;
    calls.delete(call);
    if (calls.size > 0 || confirmed || leaving || !this.#isCurrent(membership)) return;
    this.#remove(membership);
    if (requested) this.#connection.send(this.#codec.encode(this.#control("leave", membership)));
  }

  async #leave(kind, name, options) {
    checkName(name);
    this.#checkNotClosed();
    const membership = this.#memberships(kind).get(name);
    // The hub ends memberships with their connection, so without one there is nothing to send.
    const call =
      this.#state === "open" &&
      this.#request(this.#control("leave", { kind, name }), options, {
        acked: () => membership && this.#remove(membership),
        lost: (call) => call.resolve(),
      });
    if (membership) {
      membership.leaving = true;
      for (const join of membership.calls) join.rejectKnown(new HubError("aborted", "left before the hub replied"));
      if (call) this.#restored(membership);
      else this.#remove(membership);
    }
    if (call) await call.promise;
  }

  /** Returns the control message for the verb "join" or "leave". */
  #control(verb, { kind, name }) {
    return { type: kind[verb], data: this.#codec.target(kind.key, name) };
  }

  /** Reports whether the membership was neither removed nor replaced. */
  #isCurrent(membership) {
    return this.#memberships(membership.kind).get(membership.name) === membership;
  }

  #remove(membership) {
    if (this.#isCurrent(membership)) this.#memberships(membership.kind).delete(membership.name);
    this.#restored(membership);
  }

  #restored(membership) {
    this.#restoring.delete(membership);
    this.#notifyResumed();
  }
}

function withDefaults(options) {
  const all = { ...options, backoff: { ...defaultBackoff, ...options.backoff } };
  for (const [key, value] of Object.entries(defaults)) all[key] ??= value;
  all.WebSocket ??= globalThis.WebSocket;
  if (!all.WebSocket) throw new TypeError("this platform has no WebSocket; pass a class as the WebSocket option");
  if (!Object.hasOwn(codecs, all.codec)) throw new TypeError(`unknown codec ${all.codec}`);
  return all;
}

function checkName(name) {
  if (typeof name !== "string" || name === "") throw new TypeError("a name must be a non-empty string");
  if (name.isWellFormed?.() === false) throw new TypeError("a name must be well-formed Unicode");
  return name;
}

function byteLength(frame) {
  return typeof frame === "string" ? utf8Encoder.encode(frame).length : frame.length;
}

function deferred() {
  const all = {};
  all.promise = new Promise((resolve, reject) => Object.assign(all, { resolve, reject }));
  all.promise.catch(noop); // without connect, nothing awaits it
  return all;
}

/** Returns a promise that rejects when the signal aborts. */
function aborted(signal) {
  return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
}

const closedError = () => new HubError("closed", "the client is closed");

const unreachableError = ({ code, reason, error }) =>
  new HubError("unreachable", `cannot connect: ${code} ${error?.message ?? reason}`, { cause: error });
