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
  /** From the hub: it is shutting down, or the engine that keeps the topic's history is away. */
  | "unavailable"
  /** No reply, no connection or no received frame within the time limit. */
  | "timeout"
  /** A signal aborted the call, or the subscription ended before the hub confirmed it. */
  | "aborted"
  /** The connection was lost before the reply. */
  | "disconnected"
  /** The client is closed. `cause` says why. */
  | "closed"
  /** Too many calls wait for a reply, or too many bytes or messages are buffered. */
  | "overflow"
  /** An attempt to connect failed. */
  | "unreachable"
  /** The input is not valid in its codec. */
  | "malformed"
  /** A message cannot be opened, or the platform cannot seal. */
  | "security"
  /** A handler or callback of the application failed. `cause` is its error. */
  | "handler"
  /** Messages were dropped, and there is no listener for gaps. */
  | "gap"
  /** The hub lacks a feature, or the client has no handler for a request. */
  | "unsupported"
  /** `getToken` has no other token. */
  | "no_token"
  | (string & {});

/** The error class of this library. Invalid arguments throw a TypeError or RangeError instead. */
export class HubError extends Error {
  readonly code: ErrorCode;
  /** True if the hub may have carried out the call although it rejected. */
  readonly outcomeUnknown: boolean = false;
  /** The channel or room that the error concerns; empty or undefined if none. */
  readonly target: string | undefined;
  /** The error or the close that led to this error, if any. */
  readonly cause?: unknown;

  constructor(
    code: ErrorCode,
    message: string,
    { cause, target }: { cause?: unknown; target?: string | undefined } = {},
  ) {
    super(message);
    this.name = "HubError";
    this.code = code;
    this.target = target;
    if (cause !== undefined) this.cause = cause;
  }
}

/** Input that its codec cannot decode. The code is "malformed". */
export class DecodeError extends HubError {
  constructor(message: string, cause?: unknown) {
    super("malformed", message, { cause });
    this.name = "DecodeError";
  }
}

/** A `getToken` throws it to end the client: there is no other token. */
export class NoTokenError extends HubError {
  constructor(message = "no token", options?: { cause?: unknown }) {
    super("no_token", message, options);
    this.name = "NoTokenError";
  }
}
