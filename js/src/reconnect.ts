import { reconnectCodes } from "./close-codes.js";
import type { Close } from "./connection.js";
import type { Core } from "./core.js";
import { isNoToken } from "./dial.js";
import { HubError } from "./errors.js";
import { jitter } from "./timers.js";

const hint =
  "handshake failed: origin or token refused, CSP, TLS, or server away; see the server's log and the browser's console";

/** Returns the HTTP status of a refused handshake; NaN if the platform does not tell. */
const statusOf = (error: unknown): number => Number(/response: (\d+)/.exec(`${error}`)?.[1]);

/** Decides whether and when a client tries again. */
export function createReconnect({ options, listeners }: Core) {
  const { backoff, getToken, shouldReconnect } = options;
  let failures = 0; // consecutive, which determine the wait

  const reconnect = {
    /** True if the hub refused the last token, or may have. */
    renew: false,

    /** Describes a handshake that failed for an unknown reason. Browsers do not tell: a refused token is one of the possible causes. */
    explain(close: Close) {
      if ((close.error as HubError | undefined)?.code || statusOf(close.error)) return;
      reconnect.renew = true;
      close.error ??= new HubError("unreachable", hint);
    },

    /** Records how long a connection lasted, in milliseconds. */
    lasted(ms: number) {
      if (ms >= backoff.resetAfter) failures = 0;
    },

    /** Reports whether the client tries again after a close. `wasOpen` tells a connection from a handshake. */
    allows({ code, reason, error }: Close, wasOpen: boolean): boolean {
      let decision: unknown;
      void listeners.run(() => (decision = shouldReconnect?.({ code, reason })), undefined);
      if (typeof decision === "boolean") return decision;
      if (isNoToken(error)) return false;
      const status = statusOf(error);
      if (code === 3000 || status === 401) {
        // A token that was renewed and is refused in the handshake again is the last one.
        const again = getToken !== undefined && (wasOpen || !reconnect.renew);
        reconnect.renew = true;
        return again;
      }
      if (status >= 400 && status < 500) return [408, 409, 429].includes(status);
      return reconnectCodes.includes(code);
    },

    /** Returns the milliseconds to wait. */
    wait: () => jitter(backoff, failures++),
  };
  return reconnect;
}
