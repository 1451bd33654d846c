import { decodeUTF8, encodeUTF8, noBytes } from "./bytes.js";
import { Reader, Writer, zero } from "./byte-io.js";
import { asMessage, type Begin, type Codec } from "./codec.js";
import { envelope, isEmpty, type Kind, toMessage, totalSize, type Value, valuesOf } from "./envelope.js";
import type { Message, MessageFields } from "./message.js";

const varintType = 0;
const fixed64Type = 1;
const lengthType = 2;
const fixed32Type = 5;

/** Protobuf, with the schema proto/message.proto. */
export const protobuf: Codec<Uint8Array> = {
  name: "protobuf",
  text: false,

  encode(fields: Message | MessageFields) {
    return encode(valuesOf(asMessage(fields)));
  },

  decode(frame: Uint8Array) {
    return toMessage(decode("protobuf", frame, envelope.map(([, , kind]) => kind)));
  },

  target(_key: string, name: string, { since, last = 0 }: Begin = {}) {
    const position = since ? encode([encodeUTF8(since.epoch), BigInt(since.offset)]) : noBytes;
    return encode([encodeUTF8(name), position, BigInt(last)]);
  },

  error(message: Message) {
    const [code = "", text = ""] = decode("error reply", message.bytes(), ["text", "text"]);
    return { code, message: text };
  },

  gap(message: Message) {
    const kinds: Kind[] = ["text", "text", "int64", "int64", "int64", "text", "bool"];
    const [channel = "", room = "", count = 0, firstNs = zero, lastNs = zero, reason = "", all] = decode("gap notice", message.bytes(), kinds);
    return { channel, room, count: Number(count), firstNs, lastNs, reason, all: Boolean(all) };
  },
};

/** Encodes values whose field numbers are 1 and so on. Empty ones are omitted. */
function encode(values: Value[]): Uint8Array {
  // A field number below 16 has a tag of one byte; a varint takes at most ten bytes.
  const writer = new Writer(totalSize(values) + 11 * values.length);
  values.forEach((value, i) => {
    if (isEmpty(value)) return;
    const tag = (i + 1) << 3;
    if (typeof value === "object") {
      writer.uint8(tag | lengthType);
      writer.varint(BigInt(value.length));
      writer.bytes(value);
    } else {
      writer.uint8(tag | varintType);
      writer.varint(BigInt.asUintN(64, BigInt(value)));
    }
  });
  return writer.done();
}

/**
 * Reads the fields 1 and so on, of these kinds, and returns their values. Like generated
 * code, it skips unknown fields and unexpected wire types, and keeps the last
 * value of a repeated field. Groups are an error: proto3 has none.
 */
function decode(label: string, bytes: Uint8Array, kinds: Kind[]): any[] {
  const reader = new Reader(label, bytes);
  const values: any[] = [];
  while (reader.left > 0) {
    const tag = reader.varint();
    const wireType = tag % 8;
    const number = (tag - wireType) / 8;
    if (number < 1 || number >= 2 ** 29) reader.fail("invalid field number");
    const index = number - 1;
    const kind = kinds[index];
    switch (wireType) {
      case varintType: {
        const value = reader.varint64();
        if (kind && kind !== "text" && kind !== "bytes") values[index] = value;
        break;
      }
      case fixed64Type:
        reader.take(8);
        break;
      case lengthType: {
        const value = reader.bytes(reader.varint());
        if (kind === "bytes") values[index] = value;
        if (kind === "text") values[index] = decodeUTF8(value, `${label}: field ${number}`);
        break;
      }
      case fixed32Type:
        reader.take(4);
        break;
      default:
        reader.fail(`unknown wire type ${wireType}`);
    }
  }
  return values;
}
