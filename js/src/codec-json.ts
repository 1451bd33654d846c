import { fromBase64, noBytes, toBase64 } from "./bytes.js";
import { asMessage, type Codec, jsonError, jsonGap, jsonTarget } from "./codec.js";
import { DecodeError } from "./errors.js";
import { integerSource, memberSources, parseObject, stringField } from "./json-text.js";
import { Message, type MessageFields, setValue } from "./message.js";

/** The default codec. Its frames are text. */
export const json: Codec<string> = {
  name: "json",
  text: true,
  target: jsonTarget,
  error: jsonError,
  gap: jsonGap,

  encode(fields: Message | MessageFields) {
    const { type, channel, payload, timestampNs, clientId, id, offset, key, room, exceptSelf, trace } = asMessage(fields);
    let text = `{"type":${JSON.stringify(type)}`;
    if (channel) text += `,"channel":${JSON.stringify(channel)}`;
    text += `,"data":${payloadSource(payload)},"timestamp":${timestampNs}`;
    if (clientId) text += `,"client_id":${JSON.stringify(clientId)}`;
    if (id) text += `,"id":${JSON.stringify(id)}`;
    if (offset) text += `,"offset":${offset}`;
    if (key) text += `,"key":${JSON.stringify(key)}`;
    if (room) text += `,"room":true`;
    if (exceptSelf) text += `,"except_self":true`;
    if (trace) text += `,"trace":${JSON.stringify(trace)}`;
    return text + "}";
  },

  decode(text: string) {
    const fields = parseObject(text, "json");
    const sources = new Map(memberSources(text));
    const field = (key: string) => stringField(fields, key);
    const encoding = field("encoding");
    const { data } = fields;
    let payload: string | Uint8Array = noBytes;
    if (encoding === "base64") payload = fromBase64(field("data"));
    else if (encoding) throw new DecodeError(`json: unknown encoding ${JSON.stringify(encoding)}`);
    else if (data !== undefined && data !== null) payload = sources.get("data")!;
    const message = new Message({
      type: field("type"),
      channel: field("channel"),
      payload,
      timestampNs: integerSource(sources, "timestamp"),
      clientId: field("client_id"),
      id: field("id"),
      offset: Number(integerSource(sources, "offset")),
      key: field("key"),
      room: fields.room === true,
      trace: field("trace"),
    });
    return encoding ? message : setValue(message, data);
  },
};

/** Writes JSON unchanged, and bytes as base64 even if they are valid JSON. */
function payloadSource(payload: string | Uint8Array): string {
  if (typeof payload === "string") return payload;
  return payload.length ? `"${toBase64(payload)}","encoding":"base64"` : "null";
}
