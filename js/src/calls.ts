import { deferred, noop, onAbort } from "./async.js";
import type { Core } from "./core.js";
import { HubError } from "./errors.js";
import type { Message, MessageFields } from "./message.js";
import type { CallOptions } from "./options.js";
import type { Outbox, Outgoing } from "./outbox.js";
import { after, cancel } from "./timers.js";

/** The question whether the hub has a publication, and the user who may ask. */
export interface Question {
  user: string;
  data: { [name: string]: unknown };
}

/** How a call differs from others. */
interface CallKind {
  /** True if it leaves a topic: it succeeds when its connection is lost, and is not limited. */
  leaves?: boolean | undefined;
  /** The key of a publication. */
  key?: string | undefined;
  exceptSelf?: boolean | undefined;
  /** Returns the question about a publication that is sent next; undefined if the hub could not answer it. */
  ask?: (() => Question | undefined) | undefined;
}

/** A request that waits for the hub's reply. */
interface Pending extends CallKind {
  item: Outgoing;
  /** Takes the hub's reply, or why there is none. It is called once. */
  settle(error?: HubError, reply?: Message): void;
  /** True if the request waits for the next connection if it was not sent on this one. */
  keep?: boolean;
  /** The question about a publication, from the time when it was sent. */
  question?: Question | undefined;
  /** Why its connection was lost, until it is sent again. */
  lost?: HubError;
}

/** The maximum number of keys that are remembered after their calls, less one. */
const maxReplayed = 255;

/** The requests that wait for the hub's reply. */
export function createCalls(core: Core, { add, encode, measure, release, remove, transmit }: Outbox) {
  const { options } = core;
  const pending = new Map<string, Pending>(); // by request ID
  let calls = 0; // of the application
  let lastId = 0;
  let replayed: string[] = []; // keys of ended calls whose publications are for others, and may still come in a replay
  let asked = 0; // the questions that the hub has not answered on this connection

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

  /** Sends a request of the client itself, which has no time limit. */
  const request = (fields: MessageFields, settle: Pending["settle"] = noop, send = add) => {
    const id = `${++lastId}`;
    const item = measure({ ...fields, id });
    pending.set(id, { item, settle });
    send(item);
  };

  /** Handles an answer. After the last one it sends the lost publications again, and then all that was held. */
  const answered = () => {
    if (--asked) return;
    for (const call of pending.values()) {
      if (call.item.sent) continue;
      call.question = call.ask?.();
      if (call.lost) add(call.item);
      delete call.lost;
    }
    release();
  };

  return {
    finish,
    request,

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
      pending.set(id, { ...kind, item, settle, keep: !leaves, question: kind.ask?.() });
      try {
        transmit(item);
      } catch (error) {
        fail(id, error as HubError);
      }
      return promise;
    },

    /** Reports whether a key is that of a publication that excepts this client. */
    excepts: (key: string) => replayed.includes(key) || [...pending.values()].some((call) => call.exceptSelf && call.key === key),

    /** Ends the requests that need a lost connection and cannot be sent again, or all of a closed client. */
    lost(newError: () => HubError, all?: boolean) {
      asked = 0;
      for (const [id, call] of pending) {
        if (!all && call.keep && !call.item.sent) continue;
        call.lost = newError();
        if (all || !call.question) fail(id, call.lost);
      }
    },

    /** Asks the hub, once on a connection, whether it has the lost publications. Those that it certainly has not are sent again. */
    repeat() {
      if (asked) return;
      asked = 1;
      for (const [id, { ask, exceptSelf, item, key, lost, question }] of pending) {
        if (!lost || !item.sent) continue;
        const take: Pending["settle"] = (_error, reply) => {
          if (!asked) return; // the connection is lost
          const { complete, published } = reply?.json() ?? {};
          if (published) {
            if (exceptSelf) replayed = [...replayed.slice(-maxReplayed), key!];
            finish(id);
          } else if (complete) item.sent = false;
          else fail(id, lost);
          answered();
        };
        asked++;
        if (ask!()?.user === question!.user) request({ type: "hub:published", data: question!.data }, take);
        else take();
      }
      answered();
    },
  };
}

export type Calls = ReturnType<typeof createCalls>;
