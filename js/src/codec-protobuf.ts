import { decodeUTF8, encodeUTF8, noBytes } from "./bytes.js";
import { Reader, Writer, zero } from "./byte-io.js";
import { asMessage, type Begin, type Codec } from "./codec.js";
import { Message, type MessageFields } from "./message.js";

const varintType = 0;
const fixed64Type = 1;
const lengthType = 2;
const fixed32Type = 5;

type Kind = "text" | "bytes" | "int64";

/** Protobuf, with the schema proto/message.proto. */
export const protobuf: Codec<Uint8Array> = {
  name: "protobuf",
  text: false,

  encode(fields: Message | MessageFields) {
    const message = asMessage(fields);
    const data = message.bytes();
    const { type, channel, timestampNs, clientId, id, offset, key, room, exceptSelf } = message;
    return encode([
      [1, type],
      [2, channel],
      [3, data.length ? data : ""],
      [4, timestampNs],
      [5, clientId],
      [6, id],
      [7, BigInt(offset)],
      [8, key],
      [9, BigInt(room)],
      [10, BigInt(exceptSelf)],
    ]);
  },

  decode(frame: Uint8Array) {
    const fields = decode("protobuf", frame, {
      1: "text",
      2: "text",
      3: "bytes",
      4: "int64",
      5: "text",
      6: "text",
      7: "int64",
      8: "text",
      9: "int64",
    });
    return new Message({
      type: fields[1],
      channel: fields[2],
      payload: fields[3] ?? noBytes,
      timestampNs: fields[4],
      clientId: fields[5],
      id: fields[6],
      offset: Number(fields[7] ?? 0),
      key: fields[8],
      room: Boolean(fields[9]),
    });
  },

  target(_key: string, name: string, { since, last = 0 }: Begin = {}) {
    const position = since ? encode([[1, since.epoch], [2, BigInt(since.offset)]]) : "";
    return encode([[1, name], [2, position], [3, BigInt(last)]]);
  },

  error(message: Message) {
    const { 1: code = "", 2: text = "" } = decode("error reply", message.bytes(), { 1: "text", 2: "text" });
    return { code, message: text };
  },

  gap(message: Message) {
    const fields = decode("gap notice", message.bytes(), {
      1: "text",
      2: "text",
      3: "int64",
      4: "int64",
      5: "int64",
      6: "text",
      7: "int64",
    });
    return {
      channel: fields[1] ?? "",
      room: fields[2] ?? "",
      count: Number(fields[3] ?? 0),
      firstNs: fields[4] ?? zero,
      lastNs: fields[5] ?? zero,
      reason: fields[6] ?? "",
      all: Boolean(fields[7]),
    };
  },
};

/** Encodes pairs of a field number and a string, bytes or a BigInt. Empty strings and zero are omitted. */
function encode(pairs: [number, string | Uint8Array | bigint][]): Uint8Array {
  const fields = pairs
    .filter(([, value]) => value)
    .map(([number, value]) => [number, typeof value === "string" ? encodeUTF8(value) : value] as const);
  // A field number below 16 has a tag of one byte; a varint takes at most ten bytes.
  const size = fields.reduce((sum, [, value]) => sum + 11 + (typeof value === "bigint" ? 0 : value.length), 0);
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
function decode(label: string, bytes: Uint8Array, kinds: { [number: number]: Kind }) {
  const reader = new Reader(label, bytes);
  const fields: { [number: number]: any } = {};
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
