import { deferred, noop, onAbort } from "./async.js";
import type { Core } from "./core.js";
import { HubError } from "./errors.js";
import type { Message, MessageFields } from "./message.js";
import type { CallOptions } from "./options.js";
import type { Outbox, Outgoing } from "./outbox.js";
import { after, cancel } from "./timers.js";

/** A request that waits for the hub's reply. */
interface Pending {
  item: Outgoing;
  /** Takes the hub's reply, or why there is none. It is called once. */
  settle(error?: HubError, reply?: Message): void;
  /** True if the request waits for the next connection if it was not sent on this one. */
  keep?: boolean;
}

/** The requests that wait for the hub's reply. */
export function createCalls(core: Core, { add, encode, measure, remove, transmit }: Outbox) {
  const { options } = core;
  const pending = new Map<string, Pending>(); // by request ID
  let calls = 0; // of the application
  let lastId = 0;

  /** Ends a request, unless it has ended: a call that timed out or was aborted has no use for its reply. */
  const finish = (id: string, error?: HubError, reply?: Message) => {
    const ended = pending.get(id);
    if (!ended) return;
    pending.delete(id);
    remove(ended.item);
    ended.settle(error, reply);
  };

  /** Ends a request without a reply. The hub may have carried it out if it was sent. */
  const fail = (id: string, error: HubError) => {
    (error as { outcomeUnknown: boolean }).outcomeUnknown = Boolean(pending.get(id)?.item.sent);
    finish(id, error);
  };

  return {
    finish,

    /** Sends a request of the client itself, which has no time limit. */
    request(fields: MessageFields, settle: Pending["settle"] = noop, send = add) {
      const id = `${++lastId}`;
      const item = measure({ ...fields, id });
      pending.set(id, { item, settle });
      send(item);
    },

    /**
     * Sends a request of the application and returns the promise of what `read` makes of the reply. One that leaves
     * a topic succeeds when its connection is lost, and is not limited.
     */
    call<T>(
      fields: MessageFields,
      { timeout = options.timeout, signal }: CallOptions,
      read: (reply?: Message) => T,
      leaves?: boolean,
    ): Promise<T> {
      core.checkNotClosed();
      const newAborted = () => new HubError("aborted", "the call was aborted", { cause: signal!.reason });
      if (signal?.aborted) throw newAborted();
      if (!leaves && calls >= options.maxPending) throw new HubError("overflow", `${calls} calls are waiting for a reply`);
      const id = `${++lastId}`;
      const item = encode({ ...fields, id });
      const [promise, resolve, reject] = deferred<T>();
      const settle: Pending["settle"] = (error, reply) => {
        calls--;
        cancel(timer);
        end();
        // The application knows that it has closed the client.
        if (core.endedByCaller) promise.catch(noop);
        if (error && !(leaves && error.code === "disconnected")) reject(error);
        else resolve(read(reply));
      };
      const end = onAbort(signal, () => fail(id, newAborted()));
      const timer = after(timeout, () => {
        fail(id, new HubError("timeout", `no reply within ${timeout} ms`));
        core.connection?.probe();
      });
      calls++;
      pending.set(id, { item, settle, keep: !leaves });
      try {
        transmit(item);
      } catch (error) {
        fail(id, error as HubError);
      }
      return promise;
    },

    /** Ends the requests that need a lost connection, or all of a closed client. */
    lost(newError: () => HubError, all?: boolean) {
      for (const [id, { item, keep }] of pending) if (all || !keep || item.sent) fail(id, newError());
    },
  };
}

export type Calls = ReturnType<typeof createCalls>;
