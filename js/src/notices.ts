import type { GapFields } from "./codec.js";

/** Returns the fields of an object with BigInts as text, for JSON.stringify. */
export function plain(fields: object): { [key: string]: unknown } {
  const all: { [key: string]: unknown } = {};
  for (const [key, value] of Object.entries(fields)) all[key] = typeof value === "bigint" ? `${value}` : value;
  return all;
}

/** A Gap or a Resumed. */
export class Notice {
  constructor(fields: object) {
    Object.assign(this, fields);
  }

  /** Returns the fields with BigInts as text. */
  toJSON(): { [key: string]: unknown } {
    return plain(this);
  }
}

/** Reports messages that the hub dropped instead of delivering them to this client. */
export interface Gap extends GapFields {
  /** Returns the fields with BigInts as text. */
  toJSON(): { [key: string]: unknown };
}

/** Reports that a lost connection was replaced. Broadcasts and messages to this client sent between `from` and `to` may be missing. */
export interface Resumed {
  /** When the lost connection last received a frame, in Unix milliseconds of the local clock. */
  from: number;
  /** When all subscriptions were restored, in Unix milliseconds of the local clock. */
  to: number;
  /** The timestamp of the last message before the loss, in Unix nanoseconds; 0 if there was none. */
  lastTimestampNs: bigint;
  /** The restored channels. */
  channels: string[];
  /** The restored rooms. */
  rooms: string[];
  /**
   * The restored channels and rooms of which publications may be missing, and why: "none" (there is no history),
   * "expired", or "epoch" (the history has begun anew). Of the others nothing is missing.
   */
  incomplete: { kind: "channel" | "room"; name: string; reason: string }[];
  /** Returns the fields with BigInts as text. */
  toJSON(): { [key: string]: unknown };
}
