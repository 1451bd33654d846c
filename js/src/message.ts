import { type ByteArray, type Bytes, decodeUTF8, encodeUTF8, isBytes, noBytes, toBase64, viewOf } from "./bytes.js";
import { DecodeError } from "./errors.js";
import { plain } from "./notices.js";

/** An array, a plain object, or an object with a toJSON method. Other objects would lose their content. */
export type JSONObject =
  | readonly unknown[]
  | { readonly [key: string]: unknown }
  | { toJSON(key?: any): unknown }
  | (object & {
      readonly [Symbol.toStringTag]?: never; // Map, Set, Promise
      readonly arrayBuffer?: never; // Blob, File
      readonly stack?: never; // Error
      readonly bind?: never; // functions
      readonly exec?: never; // RegExp
    });

/** The data of a message: a JSON value or bytes. `null` and `undefined` are an empty payload. */
export type Payload = string | number | boolean | JSONObject | Bytes | null | undefined;

/** The fields of a message to encode. Missing fields are empty. */
export interface MessageFields {
  type?: string | undefined;
  channel?: string | undefined;
  data?: Payload;
  /** The payload as JSON text or bytes, as in `Message.payload`. It replaces `data`. */
  payload?: string | Uint8Array | undefined;
  /** Unix nanoseconds. The hub overwrites the value that a client sends. */
  timestampNs?: bigint | undefined;
  clientId?: string | undefined;
  id?: string | undefined;
  /** The place in the topic's history. Clients send none. */
  offset?: number | undefined;
  /** Makes a publication unique in the topic's history. */
  key?: string | undefined;
  /** True in a publication of a room with history. Clients send none. */
  room?: boolean | undefined;
  /** True if the hub shall not send the publication to its publisher. */
  exceptSelf?: boolean | undefined;
  /** The W3C trace context: a traceparent, or a traceparent, a space and a tracestate. */
  trace?: string | undefined;
}

/** The parsed payloads. They are no properties of the messages, so that structuredClone does not copy them. */
const values = /* @__PURE__ */ new WeakMap<Message, unknown>();

/** A message to or from the hub. */
export class Message {
  readonly type!: string;
  /** The channel's name, or the room's ID in a room message. */
  readonly channel!: string;
  /**
   * The payload as JSON text if it was made from JSON, or as bytes. It survives structuredClone: `new Message(clone)`
   * restores the message.
   */
  readonly payload!: string | ByteArray;
  /** The hub's time in Unix nanoseconds, exactly. */
  readonly timestampNs!: bigint;
  /** The ID of the client that published the message; empty if the server did. */
  readonly clientId!: string;
  /** The request ID. The hub's reply has the ID of its request. */
  readonly id!: string;
  /** The place in the history of the channel or room; 0 without a history. */
  readonly offset!: number;
  /** The key that makes the publication unique in the history; empty without one. */
  readonly key!: string;
  /** True if the message is a publication of a room with history; false without a history. */
  readonly room!: boolean;
  /** True in a request whose publication the hub shall not send to the publisher. */
  readonly exceptSelf!: boolean;
  /** The publisher's W3C trace context: a traceparent, or a traceparent, a space and a tracestate; empty without one. */
  readonly trace!: string;

  constructor(fields: MessageFields) {
    const { type = "", channel = "", data, payload = encodePayload(data), clientId = "", id = "" } = fields;
    const { timestampNs = BigInt(0), offset = 0, key = "", room = false, exceptSelf = false, trace = "" } = fields;
    if (BigInt.asIntN(64, timestampNs) !== timestampNs) {
      throw new RangeError(`${timestampNs} does not fit in 64 bits`);
    }
    Object.assign(this, { type, channel, payload, timestampNs, clientId, id, offset, key, room, exceptSelf, trace });
  }

  /** The hub's time in Unix milliseconds, for `new Date()`. */
  get timestamp(): number {
    return Number(this.timestampNs / BigInt(1e6));
  }

  /**
   * Returns the payload parsed as JSON, or null if it is empty. Throws a
   * DecodeError if it is not JSON. Every call returns the same object.
   */
  json<T = any>(): T {
    if (!this.payload.length) return null as T;
    if (!values.has(this)) {
      try {
        values.set(this, JSON.parse(this.text()));
      } catch (error) {
        throw error instanceof DecodeError ? error : new DecodeError("payload is not JSON", error);
      }
    }
    return values.get(this) as T;
  }

  /** Returns the payload as bytes. The array may belong to the message: copy it before changing it. */
  bytes(): ByteArray {
    return typeof this.payload === "string" ? encodeUTF8(this.payload) : this.payload;
  }

  /** Returns the payload as text; a JSON string keeps its quotes. Throws a DecodeError if it is not UTF-8. */
  text(): string {
    return typeof this.payload === "string" ? this.payload : decodeUTF8(this.payload, "payload");
  }

  /** Returns the fields, with the payload as JSON, or as base64 and `encoding: "base64"`, in `data`. */
  toJSON(): { [key: string]: unknown } {
    let data, encoding;
    try {
      data = this.json();
    } catch {
      data = toBase64(this.bytes());
      encoding = "base64";
    }
    return plain({ ...this, payload: undefined, data, encoding });
  }
}

/** Returns the JSON text or the bytes for `data`. Throws a TypeError if it is neither JSON nor bytes. */
function encodePayload(data: unknown): string | ByteArray {
  if (data === undefined || data === null) return noBytes;
  if (isBytes(data)) return viewOf(data);
  const text = JSON.stringify(data, (key, value) => {
    if (isJSON(value)) return value;
    throw new TypeError(`data ${key && `(${key}) `}is no JSON value: ${Object.prototype.toString.call(value)}`);
  });
  return text && text !== "null" ? text : noBytes;
}

/** Reports whether JSON.stringify keeps a value, apart from nested values. */
function isJSON(value: unknown): boolean {
  if (typeof value === "number") return isFinite(value);
  if (typeof value !== "object") return typeof value !== "function" && typeof value !== "symbol";
  // The prototype of plain objects, in every realm, is null or has no prototype itself.
  const prototype = value && Object.getPrototypeOf(value);
  return Array.isArray(value) || !prototype || !Object.getPrototypeOf(prototype);
}

/** Remembers the parsed payload of a message. */
export function setValue(message: Message, value: unknown): Message {
  values.set(message, value);
  return message;
}
