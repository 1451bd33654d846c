import type { Codec } from "./codec.js";
import type { HubError } from "./errors.js";
import type { Message, Payload } from "./message.js";
import type { Gap, Resumed } from "./notices.js";

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

/** The hub's limits. 0 or undefined: no limit. */
export interface Limits {
  /** Messages per second that the hub reads from a client. */
  messageRate?: number;
  /** Bytes per second that the hub reads from a client. */
  byteRate?: number;
  /** Bytes of a message. */
  maxMessageSize?: number;
  /** Bytes of the name of a channel or room. */
  maxNameLength?: number;
  /** Channels and rooms of a client. */
  maxSubscriptions?: number;
}

/**
 * Handles the messages of a channel or room, one at a time and in the hub's
 * order. The client does not wait for a promise that it returns.
 */
export type Handler = (message: Message) => unknown;

/** The events of a client, with the type of their argument. */
export interface Events {
  statechange: StateChange;
  message: Message;
  gap: Gap;
  resumed: Resumed;
  error: HubError;
}

/**
 * Answers a request of the hub. The result is the data of the answer. A HubError is an answer too, with its code and
 * text. After other errors the hub is only told that the handler has failed.
 */
export type RequestHandler = (message: Message) => Payload | void | Promise<Payload | void>;

export interface Callbacks {
  onStateChange?: ((change: StateChange) => unknown) | undefined;
  /** Receives the messages without a handler: broadcasts, direct messages, memberships made by the server. */
  onMessage?: Handler | undefined;
  /** Reports dropped messages. Without it, onError gets an error with the code "gap". */
  onGap?: ((gap: Gap) => unknown) | undefined;
  onResumed?: ((resumed: Resumed) => unknown) | undefined;
  /** Receives the errors that no waiting call can report. Without it, console.warn gets the first of each code. */
  onError?: ((error: HubError) => unknown) | undefined;
}

/** Where a pipe passes frames on. */
export interface PipeEnds {
  send(frame: string | Uint8Array): void;
  deliver(frame: string | Uint8Array): void;
  fail(code: number, error: unknown): void;
  /** True if the codec's frames are text. */
  text: boolean;
}

/** Seals and opens the frames of one connection. It keeps their order. */
export interface Pipe {
  /** The number of bytes that wait to be sealed. */
  waiting: number;
  /** Resolves when all frames so far were sealed and sent. */
  sent: Promise<unknown>;
  send(frame: string | Uint8Array): void;
  receive(frame: string | Uint8Array): void;
  /** Runs a task after all frames received so far have been delivered. */
  inOrder(task: () => unknown): void;
}

/** Seals and opens messages. `Sealer` is one. */
export interface Seal {
  /** The number of bytes that sealing adds to a message. */
  readonly overhead: number;
  pipe(ends: PipeEnds): Pipe;
}

/** The result of `getToken`. */
export interface Credentials {
  token?: string | undefined;
  /** Seals the messages of the next connection. It replaces that of the options. */
  security?: Seal | undefined;
}

export interface TokenRequest {
  /** Aborts after `handshakeTimeout` and when the client closes. */
  signal: AbortSignal;
  /** True if the hub refused the last token, or may have: browsers do not tell why a handshake failed. */
  renew: boolean;
}

export interface Options extends Callbacks {
  /** Defaults to json. */
  codec?: Codec | undefined;
  /** A Sealer with the hub's keys. Without it messages are not sealed. */
  security?: Seal | undefined;
  /** Sent with every handshake, as the subprotocol `bearer.<base64url>`. */
  token?: string | undefined;
  /**
   * Called before every handshake. Returns the token to send, or a token and a
   * Sealer, and replaces `token`. Throws a NoTokenError to end the client; after
   * other errors the client tries again.
   */
  getToken?:
    | ((request: TokenRequest) => string | undefined | Credentials | Promise<string | undefined | Credentials>)
    | undefined;
  /** Handlers by message type, as `handle` adds them. They are there before the first connection. */
  handlers?: { [type: string]: RequestHandler } | undefined;
  /** The WebSocket class. Defaults to the platform's. Node before 22 has none: pass that of the ws package. */
  WebSocket?: unknown;
  /** Milliseconds that a call waits for its reply. Infinity waits without a limit. Defaults to 10 s. */
  timeout?: number | undefined;
  /** Milliseconds for `getToken` and the handshake together. Defaults to 10 s. */
  handshakeTimeout?: number | undefined;
  /**
   * Milliseconds without a received frame after which the client sends a ping. After
   * as many again it replaces the connection. 0 or Infinity: never. Defaults to the hub's figure.
   */
  heartbeat?: number | undefined;
  backoff?:
    | {
        /** The longest wait before the first attempt, in milliseconds. It doubles with each failure. Defaults to 500. */
        base?: number | undefined;
        /** The longest wait before any attempt, in milliseconds. Defaults to 30 s. */
        max?: number | undefined;
        /** Milliseconds that a connection must last to reset the wait to `base`. Defaults to 10 s. */
        resetAfter?: number | undefined;
      }
    | undefined;
  /** Decides whether to reconnect after a close. If it returns undefined, `closeCodes` decides. */
  shouldReconnect?: ((close: { code: number; reason: string }) => boolean | undefined) | undefined;
  /** The largest message in bytes, sealing included. Larger ones are not sent. Defaults to the hub's limit, or 512 KiB. */
  maxMessageSize?: number | undefined;
  /** The maximum number of calls that wait for a reply. Defaults to 1024. */
  maxPending?: number | undefined;
  /** The approximate number of bytes that may wait for a connection or for the network. Defaults to 4 MiB. */
  maxQueuedBytes?: number | undefined;
  /** Closes the client when it aborts. With `connect`, it only ends the attempt. */
  signal?: AbortSignal | undefined;
}

export interface CallOptions {
  /** Milliseconds to wait for the reply. Defaults to the client's `timeout`. */
  timeout?: number | undefined;
  /** Rejects the call when it aborts. The hub may still carry out a call that was sent. */
  signal?: AbortSignal | undefined;
}

export interface PublishOptions extends CallOptions {
  /** True: the publisher does not receive its own publication. */
  exceptSelf?: boolean | undefined;
  /**
   * Makes the publication unique: while the history has one of this user with the same key, the hub publishes no other.
   * Defaults to a random key. Users without a name share their keys, so choose one that cannot be guessed.
   */
  key?: string | undefined;
  /** The W3C trace context of the publication: a traceparent, or a traceparent, a space and a tracestate. */
  trace?: string | undefined;
  /** False: the promise resolves at once, and errors go to onError. */
  ack?: boolean | undefined;
}

/** What the hub tells about a publication. */
export interface Published {
  /**
   * True if it reached only the clients of this client's hub, which is one of several nodes: its broker was not available.
   * False if that was not so or is not known. Always false in channels and rooms with a history.
   */
  local: boolean;
}

export interface SendOptions {
  /** A channel or room that the message concerns. */
  channel?: string | undefined;
  /** True: the message is dropped while there is no connection. */
  volatile?: boolean | undefined;
}
