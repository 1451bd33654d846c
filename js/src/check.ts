import { json } from "./codec-json.js";
import type { Options } from "./options.js";

/** The kinds of all options but functions: the least number, a type, or a method that an object must have. */
const kinds: { [name: string]: number | string } = {
  ack: "boolean",
  backoff: "object",
  base: 1,
  channel: "string",
  codec: "encode",
  exceptSelf: "boolean",
  handshakeTimeout: 1,
  heartbeat: 0,
  max: 1,
  maxMessageSize: 1,
  maxPending: 1,
  maxQueuedBytes: 1,
  resetAfter: 0,
  security: "pipe",
  signal: "addEventListener",
  timeout: 1,
  token: "string",
  volatile: "boolean",
};

const functions = /^(on[A-Z]\w+|getToken|WebSocket|shouldReconnect)$/;

/** Returns the options with their defaults. Throws a TypeError that names the option if one is invalid or unknown. */
export function check(options: any, defaults?: object): any {
  const all: any = { ...defaults };
  for (const name in options) {
    const value = options[name];
    const kind = kinds[name] ?? (functions.test(name) ? "function" : NaN);
    if (value === undefined) continue;
    if (
      value === null ||
      !(typeof kind === "number" ? value >= kind && typeof value === "number" : typeof value === kind || value[kind])
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

export function checkOptions(options?: Options): Settings {
  const all = check(options, {
    codec: json,
    WebSocket: globalThis.WebSocket,
    timeout: 1e4,
    handshakeTimeout: 1e4,
    maxPending: 1024,
    maxQueuedBytes: 4 << 20,
  });
  all.backoff = check(all.backoff, { base: 500, max: 3e4, resetAfter: 1e4 });
  if (!all.WebSocket) throw new TypeError("this platform has no WebSocket; pass a class as the WebSocket option");
  return all;
}

/** Checks the name of a channel or room. */
export function checkName(name: string): string {
  // encodeURIComponent rejects lone surrogates, which UTF-8 cannot represent.
  try {
    if (typeof name === "string" && encodeURIComponent(name)) return name;
  } catch {}
  throw new TypeError("a name must be non-empty, well-formed text");
}

export function checkFunction(value: unknown): void {
  if (typeof value !== "function") throw new TypeError("a handler must be a function");
}
