import { json } from "./codec-json.js";
import type { Position } from "./codec.js";
import type { Options } from "./options.js";

/** The kinds of options: the least number, a type, a method that an object must have, or a function that checks the value. */
export interface Kinds {
  readonly [name: string]: number | string | ((value: unknown) => boolean);
}

/** Those of all options but functions and the options of features. */
const coreKinds: Kinds = {
  ack: "boolean",
  backoff: "object",
  base: 1,
  channel: "string",
  codec: "encode",
  exceptSelf: "boolean",
  handshakeTimeout: 1,
  heartbeat: 0,
  key: isText,
  max: 1,
  maxMessageSize: 1,
  maxPending: 1,
  maxQueuedBytes: 1,
  resetAfter: 0,
  security: "pipe",
  signal: "addEventListener",
  timeout: 1,
  token: "string",
  trace: "string",
  volatile: "boolean",
};

export const callbackNames = ["onStateChange", "onMessage", "onGap", "onResumed", "onError"] as const;

const functions: readonly string[] = [...callbackNames, "getToken", "shouldReconnect", "WebSocket"];

export const isCount = (value: any) => Number.isSafeInteger(value) && value >= 0;

/** Returns the options with their defaults. Throws a TypeError that names the option if one is invalid or unknown. */
export function check(options: any, defaults?: object, kinds?: Kinds): any {
  const all: any = { ...defaults };
  for (const name in options) {
    const value = options[name];
    const kind = kinds?.[name] ?? coreKinds[name] ?? (functions.includes(name) ? "function" : NaN);
    if (value === undefined || (value === null && name === "since")) continue;
    if (
      value === null ||
      !(typeof kind === "number"
        ? value >= kind && typeof value === "number"
        : typeof kind === "function"
          ? kind(value)
          : typeof value === kind || value[kind])
    ) {
      throw new TypeError(`invalid option ${name}: ${value}`);
    }
    all[name] = value;
  }
  return all;
}

/** The options of a client that have a value. */
export type Settings = Options &
  Required<{
    [key in "codec" | "timeout" | "handshakeTimeout" | "maxPending" | "maxQueuedBytes"]: NonNullable<Options[key]>;
  }> & { WebSocket: new (url: string, protocols: string[]) => unknown } & {
    backoff: { base: number; max: number; resetAfter: number };
  };

export function checkOptions(options: Options | undefined, kinds: Kinds): Settings {
  const defaults = {
    codec: json,
    WebSocket: globalThis.WebSocket,
    timeout: 1e4,
    handshakeTimeout: 1e4,
    maxPending: 1024,
    maxQueuedBytes: 4 << 20,
  };
  const all = check(options, defaults, kinds);
  all.backoff = check(all.backoff, { base: 500, max: 3e4, resetAfter: 1e4 });
  if (!all.WebSocket) throw new TypeError("this platform has no WebSocket; pass a class as the WebSocket option");
  return all;
}

/** Reports whether a value is text without lone surrogates, which UTF-8 cannot represent. */
function isText(value: unknown): boolean {
  try {
    return typeof value === "string" && encodeURIComponent(value) !== undefined;
  } catch {
    return false;
  }
}

/** Checks the name of a channel or room. */
export function checkName(name: string): string {
  if (name && isText(name)) return name;
  throw new TypeError("a name must be non-empty, well-formed text");
}

/** The types of messages that applications do not use: of memberships and for the hub itself, and others that requests do not have. */
const reserved = /^((un)?subscribe|(join|leave)_room|hub:.*)$/;
const noRequest = /^(|publish|publish_room|broadcast|message|room_message|ack|error|gap)$/;

/** Checks the type of a message or request that the application sends or handles. */
export function checkType(type: string, request?: boolean): void {
  if (typeof type !== "string") throw new TypeError("a message type must be a string");
  if (reserved.test(type) || (request && noRequest.test(type))) throw new TypeError(`the type "${type}" is reserved`);
}

/** Checks a place in a history. */
export function checkPosition(since: Position | undefined): void {
  if (since && !(typeof since.epoch === "string" && since.offset >= 0 && Number.isSafeInteger(since.offset))) {
    throw new TypeError("invalid option since: it needs an epoch and an offset");
  }
}

export function checkFunction(value: unknown): void {
  if (typeof value !== "function") throw new TypeError("a handler must be a function");
}
