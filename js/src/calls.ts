import { HubError } from "./errors.js";
import type { Message, MessageFields } from "./message.js";
import type { CallOptions } from "./options.js";
import type { Outbox, Outgoing } from "./outbox.js";
import { after, cancel } from "./timers.js";

/** What to do with the hub's reply to a request. */
export interface Reply {
  item: Outgoing;
  ack(message: Message): void;
  error(error: HubError): void;
  /** Is called when the connection is lost before the reply. */
  lost(error: HubError): void;
  /** True if the request is sent on the next connection if it was not sent on this one. */
  keep?: boolean;
}

/** What calls need of their client. */
interface Client {
  outbox: Outbox;
  options: { timeout: number; maxPending: number };
  /** Encodes a message. Throws if it is too large. */
  encode(fields: MessageFields): Outgoing;
  /** Encodes a message of any size. */
  measure(fields: MessageFields): Outgoing;
  /** Sends or queues a message. Throws if too much is queued. */
  transmit(item: Outgoing): void;
  checkNotClosed(): void;
  /** Is called when a call got no reply in time. */
  timedOut(): void;
  /** Reports whether the application itself has closed the client. */
  isOwnEnd(): boolean;
}

const noop = () => {};

/** The requests that wait for the hub's reply. */
export function createCalls(client: Client) {
  const { outbox, options, encode, measure, transmit, checkNotClosed, timedOut, isOwnEnd } = client;
  const calls = new Set<(error: HubError) => void>(); // end the calls of the application
  const replies = new Map<string, Reply>(); // by request ID
  let lastId = 0;

  /** Sends a request whose loss the next connection makes good. */
  const request = (fields: MessageFields, ack: Reply["ack"], error: Reply["error"] = noop, send = outbox.add) => {
    const id = `${++lastId}`;
    const item = { ...measure({ ...fields, id }), awaited: true };
    replies.set(id, { item, ack, error, lost: noop });
    send(item);
  };

  /** Sends a request and returns the promise of the hub's reply. */
  const call = (
    fields: MessageFields,
    { timeout = options.timeout, signal }: CallOptions,
    acked = noop,
    leaving?: boolean,
  ): Promise<void> => {
    checkNotClosed();
    const newAborted = () => new HubError("aborted", "the call was aborted", { cause: signal!.reason });
    if (signal?.aborted) throw newAborted();
    // A subscription that ends must not fail.
    if (!leaving && calls.size >= options.maxPending) {
      throw new HubError("overflow", `${calls.size} calls are waiting for a reply`);
    }
    const id = `${++lastId}`;
    const item: Outgoing = { ...encode({ ...fields, id }), awaited: true };
    let settle: [() => void, (error: HubError) => void];
    const promise = new Promise<void>((...both) => (settle = both));
    const finish = (error?: HubError) => {
      if (!calls.delete(fail)) return;
      cancel(timer);
      signal?.removeEventListener("abort", abort);
      replies.delete(id);
      outbox.remove(item);
      // The application knows that it has closed the client.
      if (isOwnEnd()) promise.catch(noop);
      if (error) settle[1](error);
      else settle[0]();
    };
    /** Rejects without the hub's reply. The hub may have carried out a request that was sent. */
    const fail = (error: HubError) => {
      (error as { outcomeUnknown: boolean }).outcomeUnknown = Boolean(item.sent);
      finish(error);
    };
    const abort = () => fail(newAborted());
    const timer = after(timeout, () => {
      fail(new HubError("timeout", `no reply within ${timeout} ms`));
      timedOut();
    });
    calls.add(fail);
    signal?.addEventListener("abort", abort);
    replies.set(id, {
      item,
      ack() {
        acked();
        finish();
      },
      error: finish,
      lost: leaving ? () => finish() : fail,
      keep: !leaving,
    });
    try {
      transmit(item);
    } catch (error) {
      fail(error as HubError);
    }
    return promise;
  };

  return {
    request,
    call,

    /** Returns what to do with a reply, once. A call that timed out or was aborted has nothing to do. */
    take(id: string): Reply | undefined {
      const reply = replies.get(id);
      replies.delete(id);
      return reply;
    },

    /** Ends the requests that were sent on a lost connection. */
    lost(newError: () => HubError) {
      for (const [id, { item, keep, lost }] of replies) {
        if (keep && !item.sent) continue;
        replies.delete(id);
        outbox.remove(item);
        lost(newError());
      }
    },

    /** Ends all requests. */
    end(newError: () => HubError) {
      for (const fail of [...calls]) fail(newError());
      replies.clear();
    },
  };
}
