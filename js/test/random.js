// Random values. To repeat a run, set its seed: SEED=123 npm test.

export const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));

/** The generator Mulberry32, which is good enough for test data. */
export class Random {
  #state;

  constructor(salt = 0) {
    this.#state = seed + salt;
  }

  next() {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  below(n) {
    return Math.floor(this.next() * n);
  }

  pick(values) {
    return values[this.below(values.length)];
  }

  /** Returns a length, mostly a small one, sometimes one at a limit of a format. */
  length() {
    return this.below(24) > 0
      ? this.below(40)
      : this.pick([0, 31, 32, 127, 128, 255, 256, 300, 65_535, 65_536, 70_000]);
  }

  bytes(length = this.length()) {
    return Uint8Array.from({ length }, () => this.below(256));
  }

  /** Returns text without a leading byte order mark, which some libraries drop. */
  text(length = this.length()) {
    const alphabet = [
      "a",
      "Z",
      "0",
      " ",
      '"',
      "\\",
      "\n",
      "\u0000",
      "{",
      "}",
      "é",
      "漢",
      "😀",
      "\u2028",
      "\ufeff",
      "\ufffd",
    ];
    return Array.from({ length }, () => this.pick(alphabet))
      .join("")
      .replace(/^\ufeff/, "b");
  }

  int64() {
    const edges = [
      0n,
      1n,
      -1n,
      127n,
      128n,
      -33n,
      2n ** 53n + 1n,
      2n ** 63n - 1n,
      -(2n ** 63n),
      1_763_769_600_123_456_789n,
    ];
    if (this.below(2) === 0) return this.pick(edges);
    const bits = BigInt(this.below(2 ** 32)) * 2n ** 32n + BigInt(this.below(2 ** 32));
    return BigInt.asIntN(64, bits >> BigInt(this.below(64)));
  }

  json(depth = 3) {
    switch (this.below(depth > 0 ? 7 : 5)) {
      case 0:
        return this.text();
      case 1:
        return (this.next() - 0.5) * 10 ** this.below(20);
      case 2:
        return this.below(1000);
      case 3:
        return this.pick([true, false]);
      case 4:
        return null;
      case 5:
        return Array.from({ length: this.below(4) }, () => this.json(depth - 1));
      default:
        return Object.fromEntries(
          Array.from({ length: this.below(4) }, () => [this.text(this.below(5)), this.json(depth - 1)]),
        );
    }
  }

  payload() {
    switch (this.below(3)) {
      case 0:
        return new Uint8Array(0);
      case 1:
        return this.bytes();
      default: {
        const json = JSON.stringify(this.json(), null, this.below(3));
        return new TextEncoder().encode(json === "null" ? "{}" : json);
      }
    }
  }

  message() {
    return {
      type: this.text(),
      channel: this.text(),
      data: this.payload(),
      timestampNs: this.int64(),
      clientId: this.text(),
      id: this.pick(["", this.text()]),
    };
  }
}
