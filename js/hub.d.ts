export type Bytes = ArrayBuffer | ArrayBufferView;

/** The data of a message: a JSON value or bytes. `null` and `undefined` are an empty payload. */
export type Payload = string | number | boolean | object | Bytes | null | undefined;

/** The codes of a HubError. The hub may send codes that are not listed here. */
export type ErrorCode =
  /** From the hub: it cannot decode the message, or the name is not allowed. */
  | "bad_request"
  /** From the hub: the application does not allow the call. */
  | "forbidden"
  /** From the hub: the application failed to decide. The hub's log has the reason. */
  | "internal"
  /** From the hub: a limit is reached, such as the number of subscriptions. */
  | "limit"
  /** From the hub, or from the client before it sends: the message is too large. */
  | "too_large"
  /** From the hub: it is shutting down. */
  | "unavailable"
  /** No reply, no connection or no received frame within the time limit. */
  | "timeout"
  /** A signal aborted the call, or the membership was ended before the hub confirmed it. */
  | "aborted"
  /** The connection was lost before the reply. */
  | "disconnected"
  /** The client is closed. */
  | "closed"
  /** Too many calls wait for a reply, or too many bytes wait to be sent. */
  | "overflow"
  /** The first attempt to connect failed. */
  | "unreachable"
  /** The input is not valid in its codec. */
  | "malformed"
  /** A message cannot be opened, or the platform cannot seal. */
  | "security"
  /** A handler or callback of the application failed. `cause` is its error. */
  | "handler"
  | (string & {});

/** The error class of this library. Invalid arguments throw a TypeError or RangeError instead. */
export class HubError extends Error {
  constructor(code: ErrorCode, message: string, options?: { cause?: unknown; target?: string });
  readonly code: ErrorCode;
  /** True if the hub may have carried out the call although it rejected. */
  readonly outcomeUnknown: boolean;
  /** The channel or room that the hub's error concerns; empty or undefined if none. */
  readonly target: string | undefined;
}

/** Input that its codec cannot decode. The code is "malformed". */
export class DecodeError extends HubError {
  constructor(message: string, cause?: unknown);
}

export interface CloseCode {
  readonly name: string;
  /** Whether the client reconnects. "credentials": only if it has a `getToken` to get a new token from. */
  readonly reconnect: boolean | "credentials";
}

/** The close codes, and whether the client reconnects after each of them. It does not after other codes. */
export const closeCodes: { readonly [code: number]: CloseCode | undefined };

/** The fields of a message to encode. Missing fields are empty. */
export interface MessageFields {
  type?: string;
  channel?: string;
  data?: Payload;
  /** Unix nanoseconds. The hub overwrites the value that a client sends. */
  timestampNs?: bigint;
  clientId?: string;
  id?: string;
}

/** A message to or from the hub. */
export class Message {
  constructor(fields: MessageFields);
  readonly type: string;
  /** The channel's name, or the room's ID in a room message. */
  readonly channel: string;
  /** The hub's time in Unix nanoseconds, exactly. */
  readonly timestampNs: bigint;
  /** The ID of the client that published the message; empty if the server did. */
  readonly clientId: string;
  /** The request ID. The hub's reply has the ID of its request. */
  readonly id: string;
  /** The hub's time in Unix milliseconds, for `new Date()`. */
  get timestamp(): number;
  /**
   * Returns the payload parsed as JSON, or null if it is empty. Throws a
   * DecodeError if it is not JSON. Every call returns the same object.
   */
  json(): any;
  /** Returns the payload as bytes. The array belongs to the message: copy it before changing it. */
  bytes(): Uint8Array;
  /** Returns the payload as text; a JSON string keeps its quotes. Throws a DecodeError if it is not UTF-8. */
  text(): string;
}

export type CodecName = "json" | "protobuf" | "flatbuffers" | "msgpack";

/** Converts messages to frames and back. */
export interface Codec<Frame extends string | Uint8Array> {
  /** Also the name of the codec's subprotocol. */
  readonly name: CodecName;
  /** True if its frames are text. */
  readonly text: boolean;
  encode(message: Message | MessageFields): Frame;
  /** Throws a DecodeError if the frame is invalid. */
  decode(frame: Frame): Message;
}

/** The codecs, for use without a client, such as in tools and tests. */
export const codecs: {
  readonly json: Codec<string>;
  readonly protobuf: Codec<Uint8Array>;
  readonly flatbuffers: Codec<Uint8Array>;
  readonly msgpack: Codec<Uint8Array>;
};

/** The keys and their order. At least one key is required. `fromHex` and `fromBase64` convert text to bytes. */
export interface Security {
  /** 32 bytes, to encrypt with AES-256-GCM. */
  aesKey?: Bytes;
  /** At least one byte, to sign with HMAC-SHA256. */
  hmacKey?: Bytes;
  /** The order of the steps if there are both keys. It must equal the hub's. Defaults to true. */
  signThenEncrypt?: boolean;
}

/** Seals and opens messages. A client does so by itself; this class is for tools and tests. */
export class Sealer {
  /** Throws a TypeError if a key is invalid, and a HubError "security" if WebCrypto is missing. */
  constructor(security: Security);
  /** The number of bytes that sealing adds to a message. */
  get overhead(): number;
  /** Signs and encrypts, in the configured order. */
  seal(bytes: Uint8Array): Promise<Uint8Array>;
  /** Reverses seal. Rejects with a HubError "security" if the bytes were altered or have other keys. */
  open(bytes: Uint8Array): Promise<Uint8Array>;
}

/** Decodes hexadecimal digits. Throws a DecodeError if the text is invalid. */
export function fromHex(text: string): Uint8Array;
/** Decodes base64. Throws a DecodeError if the text is invalid. */
export function fromBase64(text: string): Uint8Array;

export type State = "connecting" | "open" | "reconnecting" | "closed";

export interface StateChange {
  state: State;
  previous: State;
  /** The close code, if a connection ended or an attempt failed. */
  code?: number;
  /** The close reason, as `code`. */
  reason?: string;
  /** The error of the platform or the client, if there is one. */
  error?: unknown;
  /** Milliseconds until the next attempt, if the state is "reconnecting". */
  retryIn?: number;
}

/** Reports messages that the hub dropped instead of delivering them to this client. */
export interface Gap {
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

/** Reports that a lost connection was replaced. Messages sent between `from` and `to` may be missing. */
export interface Resumed {
  /** When the lost connection last received a frame, in Unix milliseconds of the local clock. */
  from: number;
  /** When all memberships were restored, in Unix milliseconds of the local clock. */
  to: number;
  /** The timestamp of the last message before the loss, in Unix nanoseconds; 0n if there was none. */
  lastTimestampNs: bigint;
  /** The restored channels. */
  channels: string[];
  /** The restored rooms. */
  rooms: string[];
}

/**
 * Handles the messages of a channel or room, one at a time and in the hub's
 * order. The client does not wait for a promise that it returns.
 */
export type Handler = (message: Message) => unknown;

export interface Callbacks {
  onStateChange?: (change: StateChange) => unknown;
  /** Receives the messages without a handler: broadcasts, direct messages, memberships made by the server. */
  onMessage?: Handler;
  onGap?: (gap: Gap) => unknown;
  onResumed?: (resumed: Resumed) => unknown;
  /** Receives the errors that do not belong to a waiting call. Defaults to console.error. */
  onError?: (error: HubError) => unknown;
}

/** The result of `getToken`. */
export interface Credentials {
  token?: string;
  /** The keys of the next connection. They replace those of the options. */
  security?: Security;
}

export interface Options extends Callbacks {
  /** Defaults to "json". */
  codec?: CodecName;
  /** The hub's keys. Without them messages are not sealed. */
  security?: Security;
  /** Sent with every handshake, as the subprotocol `bearer.<base64url>`. */
  token?: string;
  /**
   * Called before every handshake. Returns the token to send, or a token and
   * keys, and replaces `token`. The signal aborts after `handshakeTimeout` and
   * when the client closes.
   */
  getToken?: (signal: AbortSignal) => string | undefined | Credentials | Promise<string | undefined | Credentials>;
  /** The WebSocket class. Defaults to the platform's. Node before 22 has none: pass that of the ws package. */
  WebSocket?: unknown;
  /** Milliseconds that a call waits for its reply. Infinity waits without a limit. Defaults to 10 s. */
  timeout?: number;
  /** Milliseconds for `getToken` and the handshake together. Defaults to 10 s. */
  handshakeTimeout?: number;
  /**
   * Milliseconds without a received frame after which the client replaces the
   * connection. Browsers do not show the hub's pings to scripts, so set it only
   * if the server sends messages more often. Defaults to 0, which means never.
   */
  idleTimeout?: number;
  backoff?: {
    /** The longest wait before the first attempt, in milliseconds. It doubles with each failure. Defaults to 500. */
    base?: number;
    /** The longest wait before any attempt, in milliseconds. Defaults to 30 s. */
    max?: number;
    /** Milliseconds that a connection must last to reset the wait to `base`. Defaults to 10 s. */
    resetAfter?: number;
  };
  /** Decides whether to reconnect after a close. If it returns undefined, `closeCodes` decides. */
  shouldReconnect?: (close: { code: number; reason: string }) => boolean | undefined;
  /** The hub's limit for a message in bytes, sealing included. Larger messages are not sent. Defaults to 512 KiB. */
  maxMessageSize?: number;
  /** The maximum number of calls that wait for a reply. Defaults to 1024. */
  maxPending?: number;
  /** The approximate number of bytes that may wait for a connection or for the network. Defaults to 4 MiB. */
  maxQueuedBytes?: number;
  /** Closes the client when it aborts. */
  signal?: AbortSignal;
}

export interface CallOptions {
  /** Milliseconds to wait for the reply. Defaults to the client's `timeout`. */
  timeout?: number;
  /** Rejects the call when it aborts. The hub may still carry out a call that was sent. */
  signal?: AbortSignal;
}

/**
 * Creates a client and resolves with it when it is open. Rejects and closes the
 * client if the first attempt fails, whereas `new HubClient` keeps trying.
 */
export function connect(url: string | URL, options?: Options): Promise<HubClient>;

/**
 * A client that reconnects until it is closed. Its calls resolve when the hub
 * acknowledges them and reject with a HubError otherwise. After `close` they
 * reject with the code "closed".
 */
export class HubClient implements Callbacks {
  /** Begins to connect after the caller's code has run. Throws a TypeError if an option is invalid. */
  constructor(url: string | URL, options?: Options);
  readonly state: State;

  onStateChange?: Callbacks["onStateChange"];
  onMessage?: Callbacks["onMessage"];
  onGap?: Callbacks["onGap"];
  onResumed?: Callbacks["onResumed"];
  onError?: Callbacks["onError"];

  /**
   * Subscribes to a channel and passes its messages to `handler`. The client
   * restores the subscription when it reconnects. Subscribing again replaces the
   * handler. If the promise rejects, the client is not subscribed, unless
   * another call for the channel succeeds.
   */
  subscribe(channel: string, handler: Handler, options?: CallOptions): Promise<void>;
  /** Ends a subscription. Its handler is not called again. */
  unsubscribe(channel: string, options?: CallOptions): Promise<void>;
  /** Joins a room, as `subscribe` does for a channel. */
  joinRoom(room: string, handler: Handler, options?: CallOptions): Promise<void>;
  /** Leaves a room, as `unsubscribe` does for a channel. */
  leaveRoom(room: string, options?: CallOptions): Promise<void>;

  /** Publishes a JSON value or bytes to the subscribers of a channel. */
  publish(channel: string, data: Payload, options?: CallOptions): Promise<void>;
  /** Publishes a JSON value or bytes to the members of a room. */
  publishRoom(room: string, data: Payload, options?: CallOptions): Promise<void>;
  /** Broadcasts a JSON value or bytes to every client of the hub. */
  broadcast(data: Payload, options?: CallOptions): Promise<void>;

  /**
   * Sends a message of an application-defined type to the server, which does not
   * acknowledge it. Throws if the message can be neither sent nor queued.
   */
  send(type: string, data?: Payload, options?: { channel?: string }): void;

  /**
   * Closes the client permanently: it calls no handlers any more and rejects the
   * calls that have no reply. Resolves when the connection has ended. The code is
   * 1000, which is the default, or 3000 to 4999.
   */
  close(code?: number, reason?: string): Promise<void>;
}
