import { DecodeError } from "./errors.js";

export const zero = /* @__PURE__ */ BigInt(0);

/** Writes into a buffer of fixed capacity. The caller makes it large enough. */
export class Writer {
  private readonly buffer: Uint8Array;
  private readonly view: DataView;
  private length = 0;

  constructor(capacity: number) {
    this.buffer = new Uint8Array(capacity);
    this.view = new DataView(this.buffer.buffer);
  }

  uint8(value: number) {
    this.buffer[this.length++] = value;
  }

  int64(value: bigint) {
    this.view.setBigInt64(this.length, value);
    this.length += 8;
  }

  varint(value: bigint) {
    const seven = BigInt(7);
    for (; value > 127; value >>= seven) this.uint8(Number(BigInt.asUintN(7, value)) | 128);
    this.uint8(Number(value));
  }

  bytes(bytes: Uint8Array) {
    this.buffer.set(bytes, this.length);
    this.length += bytes.length;
  }

  done(): Uint8Array {
    return this.buffer.subarray(0, this.length);
  }
}

/** Reads bytes front to back. Its errors contain the reason and the position. */
export class Reader {
  protected readonly view: DataView;
  private position = 0;

  constructor(
    private readonly label: string,
    private readonly buffer: Uint8Array,
  ) {
    this.view = new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
  }

  get left(): number {
    return this.buffer.length - this.position;
  }

  fail(reason: string): never {
    throw new DecodeError(`${this.label}: ${reason} at byte ${this.position}`);
  }

  /** Skips `length` bytes and returns the position of the first of them. */
  take(length: number): number {
    if (length > this.left) this.fail(`${length} bytes wanted, ${this.left} left`);
    const start = this.position;
    this.position += length;
    return start;
  }

  bytes(length: number): Uint8Array {
    const start = this.take(length);
    return this.buffer.subarray(start, start + length);
  }

  uint8(): number {
    return this.buffer[this.take(1)]!;
  }

  /** Reads a varint as a number, which is exact up to 2^53 and approximate above. */
  varint(): number {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.uint8();
      if (scale === 2 ** 63 && byte > 1) this.fail("varint longer than 64 bits");
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  }

  /** Reads a varint as a signed 64-bit BigInt. */
  varint64(): bigint {
    const seven = BigInt(7);
    let value = zero;
    const start = this.position;
    this.varint();
    for (let i = this.position - 1; i >= start; i--) value = (value << seven) | BigInt(this.buffer[i]! & 127);
    return BigInt.asIntN(64, value);
  }
}
