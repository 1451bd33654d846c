import { decodeUTF8, encodeUTF8, noBytes } from "./bytes.js";
import { Reader, Writer, zero } from "./byte-io.js";
import { asMessage, type Codec, jsonError, jsonGap, jsonTarget } from "./codec.js";
import { envelope, firstOptional, isEmpty, toMessage, totalSize, valuesOf } from "./envelope.js";
import type { Message, MessageFields } from "./message.js";

/** MessagePack. */
export const msgpack: Codec<Uint8Array> = {
  name: "msgpack",
  text: false,
  target: jsonTarget,
  error: jsonError,
  gap: jsonGap,

  encode(message: Message | MessageFields) {
    const values = valuesOf(asMessage(message));
    const written = values.map((value, i) => i < firstOptional || !isEmpty(value));
    // The headers of the map, its keys and its values take less than 160 bytes.
    const writer = new Writer(160 + totalSize(values));
    writer.uint8(0x80 | written.filter(Boolean).length);
    values.forEach((value, i) => {
      if (!written[i]) return;
      const [key, , kind] = envelope[i]!;
      writer.uint8(msgpackStr.fix | key.length);
      writer.bytes(encodeUTF8(key));
      if (typeof value === "boolean") {
        writer.uint8(msgpackTrue);
      } else if (typeof value === "bigint") {
        writer.uint8(kind === "count" ? 0xcf : 0xd3);
        writer.int64(value);
      } else if (kind === "bytes" && !value.length) {
        writer.uint8(msgpackNil);
      } else {
        writeHeader(writer, kind === "bytes" ? msgpackBin : msgpackStr, value.length);
        writer.bytes(value);
      }
    });
    return writer.done();
  },

  decode(frame: Uint8Array) {
    const reader = new MsgpackReader("msgpack", frame);
    const values: unknown[] = [];
    for (let members = reader.mapHeader(); members > 0; members--) {
      const key = reader.text("map key");
      const index = envelope.findIndex(([name]) => name === key);
      const kind = envelope[index]?.[2];
      if (kind === "text") values[index] = reader.text(key);
      else if (kind === "bytes") values[index] = reader.binary(key, true);
      else if (kind === "int64" || kind === "count") values[index] = reader.integer(key);
      else {
        if (kind) values[index] = frame[frame.length - reader.left] === msgpackTrue;
        reader.skip();
      }
    }
    if (reader.left > 0) reader.fail("bytes after the message");
    return toMessage(values);
  },
};

/** Format bytes, by the bits of the length that follows. A fix format contains the length itself. */
interface Format {
  fix: number;
  fixMax: number;
  8: number;
  16: number;
  32: number;
}

const msgpackStr: Format = { fix: 0xa0, fixMax: 31, 8: 0xd9, 16: 0xda, 32: 0xdb };
const msgpackBin: Format = { fix: 0, fixMax: -1, 8: 0xc4, 16: 0xc5, 32: 0xc6 };
const msgpackNil = 0xc0;
const msgpackTrue = 0xc3;

/** Writes the header of a str or bin. */
function writeHeader(writer: Writer, format: Format, length: number) {
  if (length <= format.fixMax) {
    writer.uint8(format.fix | length);
    return;
  }
  const bits = length < 2 ** 8 ? 8 : length < 2 ** 16 ? 16 : 32;
  writer.uint8(format[bits]);
  for (let shift = bits - 8; shift >= 0; shift -= 8) writer.uint8(length >>> shift);
}

class MsgpackReader extends Reader {
  mapHeader(): number {
    const format = this.uint8();
    if (format >>> 4 === 0x8) return format & 0xf;
    if (format === 0xde) return this.uint(2);
    if (format === 0xdf) return this.uint(4);
    return this.fail("message is not a map");
  }

  /** Reads a str or nil. */
  text(label: string): string {
    return decodeUTF8(this.binary(label, false), `msgpack: ${label}`);
  }

  /** Reads a str or nil, or a bin if `bin` is true. */
  binary(label: string, bin: boolean): Uint8Array {
    const format = this.uint8();
    const length = this.length(msgpackStr, format) ?? (bin ? this.length(msgpackBin, format) : undefined);
    if (length !== undefined) return this.bytes(length);
    if (format !== msgpackNil) this.fail(`${label} is not a string${bin ? " or bin" : ""}`);
    return noBytes;
  }

  /** Reads an integer of any size, or nil as 0. */
  integer(label: string): bigint {
    const format = this.uint8();
    if (format < 0x80) return BigInt(format);
    if (format >= 0xe0) return BigInt(format - 0x100);
    if (format === msgpackNil) return zero;
    if (format < 0xcc || format > 0xd3) this.fail(`${label} is not an integer`);
    // Four sizes of unsigned integers, then four of signed ones.
    const bits = 8 << (format & 3);
    const value = bits === 64 ? this.view.getBigUint64(this.take(8)) : BigInt(this.uint(bits / 8));
    const signed = BigInt.asIntN(format < 0xd0 ? 64 : bits, value);
    if (format < 0xd0 && signed < zero) this.fail(`${label} does not fit in 64 bits`);
    return signed;
  }

  /**
   * Skips one value and everything nested in it, without recursion. Every value
   * takes at least one byte, so a forged count fails at the end of the input.
   */
  skip() {
    for (let values = 1; values > 0; values--) values += this.skipHeader();
  }

  /** Skips one value except for its nested values, and returns their number. */
  private skipHeader(): number {
    const format = this.uint8();
    const length = this.length(msgpackStr, format) ?? this.length(msgpackBin, format);
    if (length !== undefined) return this.pass(length);
    if (format < 0x80 || format >= 0xe0) return 0; // small integers
    if (format < 0x90) return 2 * (format & 0xf); // fixmap
    if (format < 0xa0) return format & 0xf; // fixarray
    if (format === 0xc1) this.fail("unknown format byte");
    if (format < 0xc4) return 0; // nil, false, true
    if (format < 0xca) return this.pass(1 + this.uint(2 ** (format - 0xc7))); // ext: one more byte for the type
    if (format < 0xcc) return this.pass(2 ** (format - 0xc8)); // floats
    if (format < 0xd4) return this.pass(2 ** (format & 3)); // integers
    if (format < 0xdc) return this.pass(1 + 2 ** (format - 0xd4)); // fixext
    return this.uint(format & 1 ? 4 : 2) * (format < 0xde ? 1 : 2); // arrays, maps
  }

  private pass(length: number): number {
    this.take(length);
    return 0;
  }

  /** Reads the length after a format byte of this kind; undefined if it is of another. */
  private length(kind: Format, format: number): number | undefined {
    if (kind === msgpackStr && format >= 0xa0 && format <= 0xbf) return format & 0x1f;
    if (format === kind[8]) return this.uint(1);
    if (format === kind[16]) return this.uint(2);
    if (format === kind[32]) return this.uint(4);
    return undefined;
  }

  private uint(size: number): number {
    const at = this.take(size);
    if (size === 1) return this.view.getUint8(at);
    return size === 2 ? this.view.getUint16(at) : this.view.getUint32(at);
  }
}
