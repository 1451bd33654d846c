import { deferred, noop } from "./async.js";
import { base64url, encodeUTF8 } from "./bytes.js";
import { type Close, openConnection } from "./connection.js";
import type { Core } from "./core.js";
import { HubError } from "./errors.js";
import type { Message } from "./message.js";
import type { Credentials } from "./options.js";
import { after, cancel } from "./timers.js";

/** Reports whether an error is a NoTokenError. */
export const isNoToken = (error: any): boolean => error?.code === "no_token";

interface Events {
  opened(): void;
  message(message: Message): void;
  ping(): void;
  /** Called when the attempt failed, or when its connection ended. With `final`, no other attempt can succeed. */
  ended(close: Close, final?: boolean): void;
}

/** Gets credentials and opens a connection, both within handshakeTimeout. `core.giveUp` ends the attempt. */
export async function dial(core: Core, url: string, renew: boolean, events: Events): Promise<void> {
  const { codec, getToken, handshakeTimeout, security, token, WebSocket } = core.options;
  const controller = new AbortController();
  const [expired, , expire] = deferred<never>();
  expired.catch(noop);
  core.giveUp = (error) => {
    cancel(timer);
    controller.abort(error);
    expire(error);
    core.connection?.fail(1006, error);
  };
  const timer = after(handshakeTimeout, () =>
    core.giveUp(new HubError("timeout", `not connected within ${handshakeTimeout} ms`)),
  );
  const ended = (close: Close, final?: boolean) => {
    cancel(timer);
    events.ended(close, final);
  };

  let credentials: Credentials = { token };
  try {
    if (getToken) {
      const result = await Promise.race([getToken({ signal: controller.signal, renew }), expired]);
      credentials = typeof result === "object" && result ? result : { token: result };
    }
  } catch (error) {
    ended({ code: isNoToken(error) ? 3000 : 1006, reason: "no credentials", error });
    return;
  }
  if (core.isClosed()) return;

  const protocols = [codec.name];
  if (credentials.token) protocols.push(`bearer.${base64url(encodeUTF8(credentials.token))}`);
  try {
    core.connection = openConnection(new WebSocket(url, protocols), codec, credentials.security ?? security, {
      ...events,
      ended,
      opened() {
        cancel(timer);
        events.opened();
      },
    });
  } catch (error) {
    // The platform rejected the URL.
    ended({ code: 1006, reason: (error as Error).message, error }, true);
  }
}
