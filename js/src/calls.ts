import { deferred, noop, onAbort } from "./async.js";
import type { Core } from "./core.js";
import { HubError } from "./errors.js";
import type { Message, MessageFields } from "./message.js";
import type { CallOptions } from "./options.js";
import type { Outbox, Outgoing } from "./outbox.js";
import { after, cancel } from "./timers.js";

/** How a call differs from others. */
interface CallKind {
  /** True if it leaves a topic: it succeeds when its connection is lost, and is not limited. */
  leaves?: boolean | undefined;
  /**
   * Returns where the hub carries out the request once only, however often it is sent: for a user, and in a history that
   * has forgotten nothing since. Returns undefined if that is not certain.
   */
  scope?: (() => string | undefined) | undefined;
  /** The key of a publication. */
  key?: string | undefined;
  /** True if the client has made the key, so that no other publication has it. */
  generated?: boolean | undefined;
  exceptSelf?: boolean | undefined;
}

/** A request that waits for the hub's reply. */
interface Pending extends CallKind {
  item: Outgoing;
  /** Takes the hub's reply, or why there is none. It is called once. */
  settle(error?: HubError, reply?: Message): void;
  /** True if the request waits for the next connection if it was not sent on this one. */
  keep?: boolean;
  /** The scope in which the request was sent, or is to be sent. */
  first?: string | undefined;
  /** True while the request waits to be sent again. */
  again?: boolean;
}

/** The requests that wait for the hub's reply. */
export function createCalls(core: Core, { add, encode, measure, release, remove, transmit }: Outbox) {
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

    /** Sends a request of the application and returns a promise. `read` turns the reply into its value. */
    call<T>(
      fields: MessageFields,
      { timeout = options.timeout, signal }: CallOptions,
      read: (reply?: Message) => T,
      kind: CallKind = {},
    ): Promise<T> {
      const { leaves } = kind;
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
      pending.set(id, { ...kind, item, settle, keep: !leaves, first: kind.scope?.() });
      try {
        transmit(item);
      } catch (error) {
        fail(id, error as HubError);
      }
      return promise;
    },

    /**
     * Handles a publication with a key that the client has received. It may be one that waits for its reply: when the
     * client comes back, the history may have forgotten it without the loss of any other. Returns true if the publisher
     * is not to receive it.
     */
    received(key: string): boolean {
      let excepted = false;
      for (const [id, call] of pending) {
        if (call.key !== key) continue;
        call.scope = undefined;
        if (!call.generated) continue;
        excepted = Boolean(call.exceptSelf);
        finish(id);
      }
      return excepted;
    },

    /** Ends the requests that need a lost connection and cannot be sent again, or all of a closed client. */
    lost(newError: () => HubError, all?: boolean) {
      for (const [id, call] of pending) {
        const { again, first, item, keep, scope } = call;
        if (!all && (again || (keep && !item.sent))) continue;
        call.again = !all && first !== undefined && scope?.() === first;
        if (!call.again) fail(id, newError());
      }
    },

    /** Is called when the scope of calls may have become known. The hub replies to requests in their order. */
    learn() {
      for (const call of pending.values()) call.first ??= call.scope?.();
    },

    /**
     * Sends the requests again that were lost with their connection, except those that the hub might carry out twice, and
     * then all that was held. With `replaying` it does nothing if there are any: the replay may have them.
     */
    repeat(replaying: boolean) {
      const calls = [...pending];
      if (replaying && calls.some(([, { again }]) => again)) return;
      const items: Outgoing[] = [];
      for (const [id, call] of calls) {
        const { again, first, item, scope } = call;
        const now = scope?.();
        call.again = false;
        if (!item.sent) call.first = now;
        else if (again && now === first) items.push(item);
        else if (again) fail(id, new HubError("disconnected", "the connection was lost, and the history may have forgotten the key"));
      }
      release(items);
    },
  };
}

export type Calls = ReturnType<typeof createCalls>;
