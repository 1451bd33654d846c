export interface CloseCode {
  readonly name: string;
  /** Whether the client reconnects. "credentials": only if it has a `getToken` to get a new token from. */
  readonly reconnect: boolean | "credentials";
}

/** The codes after which the client reconnects. After 3000 it does so only if it has a `getToken`. */
export const reconnectCodes = [1001, 1005, 1006, 1011, 1012, 1013, 3008];

const names: { [code: number]: string } = {
  1000: "normal",
  1001: "going away",
  1002: "protocol error",
  1003: "wrong frame type",
  1005: "no code",
  1006: "abnormal",
  1007: "malformed message",
  1008: "policy violation",
  1009: "message too big",
  1011: "internal error",
  1012: "service restart",
  1013: "try again later",
  3000: "unauthorized",
  3003: "forbidden",
  3008: "timeout",
  4409: "replaced",
};

/**
 * The close codes, and whether the client reconnects after each of them. It does
 * not reconnect after other codes. 1005 stands for a Close frame without a code,
 * 1006 for a connection that ended without a Close frame.
 */
export const closeCodes: { readonly [code: number]: CloseCode | undefined } = /* @__PURE__ */ (() => {
  const all: { [code: number]: CloseCode } = {};
  for (const code of Object.keys(names).map(Number)) {
    const reconnect = code === 3000 ? "credentials" : reconnectCodes.includes(code);
    all[code] = Object.freeze({ name: names[code]!, reconnect });
  }
  return Object.freeze(all);
})();
