// A client of a hypgo-websocket hub, for browsers and Node.

export { type ByteArray, type Bytes, fromBase64, fromHex } from "./bytes.js";
export { connect, connectWith, CoreClient, HubClient } from "./client.js";
export { type CloseCode, closeCodes } from "./close-codes.js";
export { type Begin, type Codec, type Position } from "./codec.js";
export { flatbuffers } from "./codec-flatbuffers.js";
export { json } from "./codec-json.js";
export { msgpack } from "./codec-msgpack.js";
export { protobuf } from "./codec-protobuf.js";
export { codecs } from "./codecs.js";
export { DecodeError, type ErrorCode, HubError, NoTokenError } from "./errors.js";
export { type Added, type Feature } from "./feature.js";
export { history } from "./history.js";
export { Message, type MessageFields, type JSONObject, type Payload } from "./message.js";
export { type Gap, type Resumed } from "./notices.js";
export * from "./options.js";
export { presence, type Member, type PresenceChange, type PresenceHandler } from "./presence.js";
export { requests, type RequestMethods } from "./requests.js";
export { type Keys, Sealer } from "./seal.js";
export { type HistoryPage, type HistoryQuery, type TopicResumed, type SubscribeOptions, type Subscription } from "./subscription.js";
