import { integerSource, memberSources, parseObject, stringField } from "./json-text.js";
import { Message, type MessageFields } from "./message.js";

/** The fields of the hub's notice of dropped messages. */
export interface GapFields {
  /** The channel of the dropped messages. `channel` and `room` are empty for broadcasts and direct messages. */
  channel: string;
  /** The room of the dropped messages. */
  room: string;
  /** True if the dropped messages may be of any channel or room, broadcasts or direct messages. */
  all: boolean;
  /** The number of dropped messages. */
  count: number;
  /** The timestamp of the first dropped message, in Unix nanoseconds. */
  firstNs: bigint;
  /** The timestamp of the last dropped message, in Unix nanoseconds. */
  lastNs: bigint;
  /** Why the hub dropped them, such as "slow_consumer". */
  reason: string;
}

/** A place in the history of a channel or room. */
export interface Position {
  /** Changes when the history begins anew. */
  epoch: string;
  /** That of the latest publication before the place. */
  offset: number;
}

/** Where a subscription to a channel or room with history begins. It has at most one of the fields. */
export interface Begin {
  /** Begins behind a position. */
  since?: Position | undefined;
  /** Begins with the latest publications, as many as this number. */
  last?: number | undefined;
}

/** Converts messages to frames and back. */
export interface Codec<Frame extends string | Uint8Array = any> {
  /** Also the name of the codec's subprotocol. */
  readonly name: string;
  /** True if its frames are text. */
  readonly text: boolean;
  encode(message: Message | MessageFields): Frame;
  /** Throws a DecodeError if the frame is invalid. */
  decode(frame: Frame): Message;
  /** Returns the data of a message that begins or ends a subscription; key is "channel" or "room_id". */
  target(key: string, name: string, begin?: Begin): object;
  /** Parses the hub's error reply. */
  error(message: Message): { code: string; message: string };
  /** Parses the hub's notice of dropped messages. */
  gap(message: Message): GapFields;
}

export const asMessage = (message: Message | MessageFields): Message =>
  message instanceof Message ? message : new Message(message);

// Control data, which is JSON in every codec except protobuf.

export const jsonTarget = (key: string, name: string, begin?: Begin): object => ({ [key]: name, ...begin });

export function jsonError(message: Message) {
  const fields = parseObject(message.text(), "error reply");
  return { code: stringField(fields, "code"), message: stringField(fields, "message") };
}

export function jsonGap(message: Message): GapFields {
  const text = message.text();
  const fields = parseObject(text, "gap notice");
  const sources = new Map(memberSources(text));
  return {
    channel: stringField(fields, "channel"),
    room: stringField(fields, "room_id"),
    all: fields.all === true,
    count: Number(integerSource(sources, "count")),
    firstNs: integerSource(sources, "first"),
    lastNs: integerSource(sources, "last"),
    reason: stringField(fields, "reason"),
  };
}
