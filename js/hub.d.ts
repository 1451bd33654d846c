export type Bytes = ArrayBuffer | ArrayBufferView;

/** What can be published: a JSON value, or bytes. `null` and `undefined` are an empty payload. */
export type Payload = string | number | boolean | object | Bytes | null | undefined;

/** Codes that the hub answers with, and the client's own. */
export type ErrorCode =
  /** The hub: a message that it cannot read, or a name that it does not take. */
  | "bad_request"
  /** The hub: the application does not allow it. */
  | "forbidden"
  /** The hub: a limit is reached, such as that on subscriptions. */
  | "limit"
  /** The hub, or the client before it sends: a message above the limit. */
  | "too_large"
  /** The hub: it is closing. */
  | "unavailable"
  /** No answer, no connection or no sign of life in time. */
  | "timeout"
  /** Aborted by a signal, or a subscription that was ended before it was confirmed. */
  | "aborted"
  /** The connection was lost before the answer. */
  | "disconnected"
  /** The client is closed. */
  | "closed"
  /** Too many calls without an answer, or too many bytes that wait. */
  | "overflow"
  /** The first connection could not be made. */
  | "unreachable"
  /** Bytes that are not what the codec says they are. */
  | "malformed"
  /** A message that does not open, or a platform that cannot seal. */
  | "security"
  /** A handler or callback of the application failed; `cause` is why. */
  | "handler"
  | (string & {});

export class HubError extends Error {
  constructor(code: ErrorCode, message: string, options?: { cause?: unknown; target?: string });
  readonly code: ErrorCode;
  /** True when the hub may have carried out the call all the same. */
  readonly outcomeUnknown: boolean;
  /** The channel or room that the hub's error is about; empty or undefined where there is none. */
  readonly target: string | undefined;
}

/** Bytes that are not what the codec says they are. Its code is "malformed". */
export class DecodeError extends HubError {
  constructor(message: string, cause?: unknown);
}

export interface CloseCode {
  readonly name: string;
  /** "credentials": only with a `getToken` that can supply new ones. */
  readonly reconnect: boolean | "credentials";
}

/** What the hub's close codes mean to a client. Codes that are not in the table end it. */
export const closeCodes: { readonly [code: number]: CloseCode | undefined };

/** The fields of a message to encode. */
export interface MessageFields {
  type?: string;
  channel?: string;
  data?: Payload;
  /** Unix nanoseconds. The hub overwrites what clients send. */
  timestampNs?: bigint;
  clientId?: string;
  id?: string;
}

export class Message {
  constructor(fields: MessageFields);
  readonly type: string;
  /** The channel's name, or the room's ID in a room message. */
  readonly channel: string;
  /** The hub's time in Unix nanoseconds, exactly. */
  readonly timestampNs: bigint;
  /** The client that published; empty for messages of the server's own. */
  readonly clientId: string;
  /** The request that an answer belongs to. */
  readonly id: string;
  /** The hub's time in Unix milliseconds, as Date takes and gives it. */
  get timestamp(): number;
  /**
   * The payload read as JSON; null where it is empty. Throws a DecodeError where
   * it is not JSON. Every call returns the same object.
   */
  json(): any;
  /** The payload's bytes. They belong to the message: copy them to change them. */
  bytes(): Uint8Array;
  /** The payload as text; a JSON string keeps its quotes. Throws a DecodeError where it is not UTF-8. */
  text(): string;
}

export type CodecName = "json" | "protobuf" | "flatbuffers" | "msgpack";

export interface Codec<Frame extends string | Uint8Array> {
  readonly name: CodecName;
  /** Whether its frames are text. */
  readonly text: boolean;
  encode(message: Message | MessageFields): Frame;
  /** Throws a DecodeError. */
  decode(frame: Frame): Message;
}

/** The codecs by themselves, for tools and tests. */
export const codecs: {
  readonly json: Codec<string>;
  readonly protobuf: Codec<Uint8Array>;
  readonly flatbuffers: Codec<Uint8Array>;
  readonly msgpack: Codec<Uint8Array>;
};

/** At least one key. `fromHex` and `fromBase64` make bytes of text. */
export interface Security {
  /** 32 bytes: encrypt with AES-256-GCM. */
  aesKey?: Bytes;
  /** Any number of bytes but 0: sign with HMAC-SHA256. */
  hmacKey?: Bytes;
  /** With both keys, which comes first; the hub's order. Defaults to true. */
  signThenEncrypt?: boolean;
}

/** Seals and opens as connections do, which use one by themselves. */
export class Sealer {
  constructor(security: Security);
  /** How many bytes sealing adds. */
  get overhead(): number;
  seal(bytes: Uint8Array): Promise<Uint8Array>;
  /** Rejects with a HubError "security" for bytes that do not open. */
  open(bytes: Uint8Array): Promise<Uint8Array>;
}

export function fromHex(text: string): Uint8Array;
export function fromBase64(text: string): Uint8Array;

export type State = "connecting" | "open" | "reconnecting" | "closed";

export interface StateChange {
  state: State;
  previous: State;
  /** The close code, when a connection has ended or failed. */
  code?: number;
  reason?: string;
  /** What the platform or the client told of it. */
  error?: unknown;
  /** Milliseconds until the next attempt, when reconnecting. */
  retryIn?: number;
}

/** Messages that the hub dropped instead of delivering them to this client. */
export interface Gap {
  /** Where they were published. Both are empty for broadcasts and direct messages. */
  channel: string;
  room: string;
  /** They may be of any channel or room, and broadcasts and direct messages among them. */
  all: boolean;
  count: number;
  /** Timestamps of the first and last of them. */
  firstNs: bigint;
  lastNs: bigint;
  /** Such as "slow_consumer". */
  reason: string;
}

/** A connection was lost and replaced: messages in between may have been missed. */
export interface Resumed {
  /** The last sign of life of the lost connection, in this machine's milliseconds. */
  from: number;
  /** When everything was restored. */
  to: number;
  /** The hub's time of the last message before; 0n where there was none. */
  lastTimestampNs: bigint;
  /** What was restored. */
  channels: string[];
  rooms: string[];
}

export type Handler = (message: Message) => unknown;

export interface Callbacks {
  onStateChange?: (change: StateChange) => unknown;
  /** Everything that has no handler: broadcasts, direct messages, memberships that the server made. */
  onMessage?: Handler;
  onGap?: (gap: Gap) => unknown;
  onResumed?: (resumed: Resumed) => unknown;
  /** Errors that no call can reject with. Defaults to console.error. */
  onError?: (error: HubError) => unknown;
}

export interface Credentials {
  token?: string;
  /** Keys for this connection. */
  security?: Security;
}

export interface Options extends Callbacks {
  /** Defaults to "json". */
  codec?: CodecName;
  /** Keys of the hub's. Without them nothing is sealed. */
  security?: Security;
  /** Sent with every handshake, as the subprotocol `bearer.<base64url>`. */
  token?: string;
  /** Asked at every connection instead, for a token, with keys for this connection if it has any. */
  getToken?: (signal: AbortSignal) => string | undefined | Credentials | Promise<string | undefined | Credentials>;
  /** The class to use. Defaults to the platform's own; Node before 22 has none: pass that of "ws". */
  WebSocket?: unknown;
  /** Milliseconds that a call waits for its answer. Infinity waits for ever. Defaults to 10 s. */
  timeout?: number;
  /** Milliseconds for a token and a handshake. Defaults to 10 s. */
  handshakeTimeout?: number;
  /**
   * Milliseconds of silence after which a connection is taken for dead. Scripts
   * in browsers do not see the hub's pings, so it takes an application that
   * sends something regularly. Defaults to 0, never.
   */
  idleTimeout?: number;
  backoff?: {
    /** The longest wait before the first attempt, in milliseconds; it doubles with each failure. Defaults to 500. */
    base?: number;
    /** The longest wait before any attempt. Defaults to 30 s. */
    max?: number;
    /** How long a connection must have lasted for the waits to begin anew. Defaults to 10 s. */
    resetAfter?: number;
  };
  /** Overrides `closeCodes`; undefined leaves it to the table. */
  shouldReconnect?: (close: { code: number; reason: string }) => boolean | undefined;
  /** The hub's limit for a message, in bytes; a larger one would end the connection. Defaults to 64 KiB. */
  maxMessageSize?: number;
  /** Calls that may wait for an answer. Defaults to 1024. */
  maxPending?: number;
  /** Bytes, roughly, that may wait for a connection or for the network. Defaults to 4 MiB. */
  maxQueuedBytes?: number;
  /** Closes the client. */
  signal?: AbortSignal;
}

export interface CallOptions {
  /** Milliseconds to wait for the answer, instead of the client's. */
  timeout?: number;
  /** Rejects the call. What was sent is not taken back. */
  signal?: AbortSignal;
}

/**
 * Connects, and resolves with the client once it is open. Rejects if this first
 * attempt fails, where `new HubClient` goes on trying.
 */
export function connect(url: string | URL, options?: Options): Promise<HubClient>;

/** A client that keeps itself connected until it is closed. */
export class HubClient implements Callbacks {
  constructor(url: string | URL, options?: Options);
  readonly state: State;

  onStateChange?: Callbacks["onStateChange"];
  onMessage?: Callbacks["onMessage"];
  onGap?: Callbacks["onGap"];
  onResumed?: Callbacks["onResumed"];
  onError?: Callbacks["onError"];

  /**
   * Subscribes to a channel, whose messages go to `handler`. A subscription
   * outlives connections. Subscribing again replaces the handler. If the
   * promise rejects, the client is not subscribed.
   */
  subscribe(channel: string, handler: Handler, options?: CallOptions): Promise<void>;
  /** Ends a subscription. From here on its handler is not called any more. */
  unsubscribe(channel: string, options?: CallOptions): Promise<void>;
  /** Joins a room, as `subscribe` does a channel. */
  joinRoom(room: string, handler: Handler, options?: CallOptions): Promise<void>;
  /** Leaves a room, as `unsubscribe` does a channel. */
  leaveRoom(room: string, options?: CallOptions): Promise<void>;

  /** Publishes to the subscribers of a channel. */
  publish(channel: string, data: Payload, options?: CallOptions): Promise<void>;
  /** Publishes to the members of a room. */
  publishRoom(room: string, data: Payload, options?: CallOptions): Promise<void>;
  /** Publishes to every client of the hub. */
  broadcast(data: Payload, options?: CallOptions): Promise<void>;

  /**
   * Sends a message of the application's own type, which nobody acknowledges.
   * Throws if it can be neither sent nor queued.
   */
  send(type: string, data?: Payload, options?: { channel?: string }): void;

  /**
   * Closes for good: handlers are not called any more, and calls without an
   * answer are rejected. Resolves when the connection has ended. Scripts may
   * send the codes 1000, which is the default, and 3000 to 4999.
   */
  close(code?: number, reason?: string): Promise<void>;
}
