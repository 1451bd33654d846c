import { decodeUTF8, noBytes } from "./bytes.js";
import { zero } from "./byte-io.js";
import { asMessage, type Codec, jsonError, jsonGap, jsonTarget } from "./codec.js";
import { envelope, firstOptional, toMessage, totalSize, valuesOf } from "./envelope.js";
import { DecodeError } from "./errors.js";
import type { Message, MessageFields } from "./message.js";

/** FlatBuffers, with the schema proto/message.fbs. */
export const flatbuffers: Codec<Uint8Array> = {
  name: "flatbuffers",
  text: false,
  target: jsonTarget,
  error: jsonError,
  gap: jsonGap,

  encode(fields: Message | MessageFields) {
    const values = valuesOf(asMessage(fields));
    const builder = new FlatBuilder(totalSize(values));
    const slots = values.map((value, i) => {
      if (typeof value !== "object") return value;
      const isText = envelope[i]![2] === "text";
      if (!value.length && !(isText && i < firstOptional)) return 0;
      return isText ? builder.string(value) : builder.vector(value);
    });
    return builder.finish(slots);
  },

  decode(frame: Uint8Array) {
    const table = new FlatTable(frame);
    const values = envelope.map(([, , kind], slot) => {
      if (kind === "text") return table.text(slot);
      return kind === "bytes" ? table.vector(slot) : kind === "bool" ? table.bool(slot) : table.int64(slot);
    });
    return toMessage(values);
  },
};

/**
 * Builds one table, from the end of the buffer to its start. Its output equals
 * the official builders' byte for byte. Positions count from the buffer's end.
 */
class FlatBuilder {
  private readonly buffer: Uint8Array;
  private readonly view: DataView;
  private start: number;
  private alignment = 1;

  constructor(content: number) {
    // 128 bytes are enough for a table of ten fields, its vtable, all lengths and padding.
    this.buffer = new Uint8Array(content + 128);
    this.view = new DataView(this.buffer.buffer);
    this.start = this.buffer.length;
  }

  private get position(): number {
    return this.buffer.length - this.start;
  }

  /** Adds padding so that a value of `size` bytes is aligned after `further` more bytes. */
  private align(size: number, further = 0) {
    this.alignment = Math.max(this.alignment, size);
    this.start -= -(this.position + further) & (size - 1);
  }

  private uint32(value: number) {
    this.align(4);
    this.start -= 4;
    this.view.setUint32(this.start, value, true);
  }

  private uint16(value: number) {
    this.start -= 2;
    this.view.setUint16(this.start, value, true);
  }

  private int64(value: bigint) {
    this.align(8);
    this.start -= 8;
    this.view.setBigInt64(this.start, value, true);
  }

  vector(bytes: Uint8Array): number {
    this.align(4, bytes.length);
    this.start -= bytes.length;
    this.buffer.set(bytes, this.start);
    this.uint32(bytes.length);
    return this.position;
  }

  /** Writes a vector followed by a zero byte, which its length does not include. */
  string(bytes: Uint8Array): number {
    this.align(4, bytes.length + 1);
    this.start--;
    return this.vector(bytes);
  }

  /** Writes the table. Each slot is a position, a BigInt or a boolean. Zero values are omitted. */
  finish(slots: (number | bigint | boolean)[]): Uint8Array {
    const tableEnd = this.position;
    const fields = slots.map((value) => {
      if (!value) return 0;
      if (typeof value === "boolean") {
        this.buffer[--this.start] = 1;
      } else if (typeof value === "bigint") {
        this.int64(value);
      } else {
        this.align(4);
        this.uint32(this.position + 4 - value);
      }
      return this.position;
    });
    this.uint32(0); // replaced below by the offset of the vtable
    const table = this.position;
    while (fields[fields.length - 1] === 0) fields.pop();
    for (const field of fields.reverse()) this.uint16(field && table - field);
    this.uint16(table - tableEnd);
    this.uint16(4 + 2 * fields.length);
    this.view.setInt32(this.buffer.length - table, this.position - table, true);
    this.align(this.alignment, 4);
    this.uint32(this.position + 4 - table);
    return this.buffer.subarray(this.start);
  }
}

const labelOf = (slot: number) => envelope[slot]![0];

/** Reads one table. It checks every offset and length before using it. */
class FlatTable {
  private readonly view: DataView;
  private readonly table: number;
  private readonly vtable: number;
  private readonly slots: number;

  constructor(private readonly bytes: Uint8Array) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.table = this.uint32(0, "root offset");
    this.checkBounds(this.table, 4, "table");
    this.vtable = this.table - this.view.getInt32(this.table, true);
    this.checkBounds(this.vtable, 4, "vtable");
    const size = this.view.getUint16(this.vtable, true);
    if (size < 4 || size % 2 !== 0) throw new DecodeError(`flatbuffers: impossible vtable size ${size}`);
    this.checkBounds(this.vtable, size, "vtable");
    this.slots = (size - 4) / 2;
  }

  private checkBounds(position: number, length: number, label: string) {
    if (position < 0 || position + length > this.bytes.length) {
      throw new DecodeError(`flatbuffers: ${label} at byte ${position} is outside the buffer`);
    }
  }

  private uint32(position: number, label: string): number {
    this.checkBounds(position, 4, label);
    return this.view.getUint32(position, true);
  }

  /** Returns the position of a field, or 0 if the table does not have the field. */
  private field(slot: number): number {
    if (slot >= this.slots) return 0;
    const offset = this.view.getUint16(this.vtable + 4 + 2 * slot, true);
    return offset && this.table + offset;
  }

  vector(slot: number): Uint8Array {
    const field = this.field(slot);
    if (field === 0) return noBytes;
    const label = labelOf(slot);
    const start = field + this.uint32(field, label);
    const length = this.uint32(start, label);
    this.checkBounds(start + 4, length, label);
    return this.bytes.subarray(start + 4, start + 4 + length);
  }

  text(slot: number): string {
    return decodeUTF8(this.vector(slot), `flatbuffers: ${labelOf(slot)}`);
  }

  bool(slot: number): boolean {
    const field = this.field(slot);
    if (field > 0) this.checkBounds(field, 1, labelOf(slot));
    return field > 0 && this.bytes[field] !== 0;
  }

  int64(slot: number): bigint {
    const field = this.field(slot);
    if (field === 0) return zero;
    this.checkBounds(field, 8, labelOf(slot));
    return this.view.getBigInt64(field, true);
  }
}
