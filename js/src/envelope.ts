import { encodeUTF8 } from "./bytes.js";
import { Message } from "./message.js";

export type Kind = "text" | "bytes" | "int64" | "count" | "bool";

/** The fields of an envelope, in the order of the schemas: the key on the wire, the name in a Message, and the kind. */
export const envelope: readonly (readonly [key: string, name: keyof Message, kind: Kind])[] = [
  ["type", "type", "text"],
  ["channel", "channel", "text"],
  ["data", "payload", "bytes"],
  ["timestamp", "timestampNs", "int64"],
  ["client_id", "clientId", "text"],
  ["id", "id", "text"],
  ["offset", "offset", "count"],
  ["key", "key", "text"],
  ["room", "room", "bool"],
  ["except_self", "exceptSelf", "bool"],
  ["trace", "trace", "text"],
];

/** The index of the first field that is left out if it is empty, in codecs that do not leave out all. */
export const firstOptional = 5;

export type Value = Uint8Array | bigint | boolean;

/** Returns the values of a message in the order of `envelope`: texts as UTF-8, and numbers as BigInts. */
export const valuesOf = (message: any): Value[] =>
  envelope.map(([, name, kind]) => {
    const value = message[name];
    return kind === "text" ? encodeUTF8(value) : kind === "bytes" ? message.bytes() : kind === "count" ? BigInt(value) : value;
  });

/** Returns the message with these values, which may be missing. Texts are strings, and all numbers BigInts. */
export function toMessage(values: any[]): Message {
  const fields: { [name: string]: unknown } = {};
  envelope.forEach(([, name, kind], i) => {
    const value = values[i];
    fields[name] = kind === "count" ? Number(value ?? 0) : kind === "bool" ? Boolean(value) : value;
  });
  return new Message(fields);
}

export const isEmpty = (value: Value): boolean => !(typeof value === "object" ? value.length : value);

/** Returns the number of bytes of all texts and bytes. */
export const totalSize = (values: Value[]): number => values.reduce((sum, value) => sum + (typeof value === "object" ? value.length : 0), 0);
