import { deferred, noop, onAbort } from "./async.js";
import type { Core } from "./core.js";
import { HubError } from "./errors.js";
import type { Message, MessageFields } from "./message.js";
import type { CallOptions } from "./options.js";
import type { Publication } from "./repeat.js";
import type { Outbox, Outgoing } from "./outbox.js";
import { after, cancel, jitter } from "./timers.js";

/** How a call differs from others. */
interface CallKind {
  /** True if it leaves a topic: it succeeds when its connection is lost, and is not limited. */
  leaves?: boolean;
  /** The publication, if it is one with a key. */
  publication?: Publication | undefined;
}

/** A request that waits for the hub's reply. */
export interface Pending extends CallKind {
  item: Outgoing;
  /** Takes the hub's reply, or why there is none. It is called once. */
  settle(error?: HubError, reply?: Message): void;
  /** True if the request waits for the next connection if it was not sent on this one. */
  keep?: boolean;
  /** Why its connection was lost, until it is sent again. */
  lost?: HubError;
  /** Returns true if the request is sent again when the hub refuses it as unavailable. A publication with a question is too. */
  repeats?: (() => boolean) | undefined;
  /** The latest such refusal, and the timer that sends it again. */
  refusal?: HubError;
  refusals?: number;
  timer?: unknown;
}

/** The requests that wait for the hub's reply. */
export function createCalls(core: Core, { add, encode, enqueue, measure, remove, transmit }: Outbox) {
  const { options } = core;
  const pending = new Map<string, Pending>(); // by request ID
  let calls = 0; // of the application
  let lastId = 0;

  /** Ends a request, unless it has ended: a call that timed out or was aborted has no use for its reply. */
  const finish = (id: string, error?: HubError, reply?: Message) => {
    const ended = pending.get(id);
    if (!ended) return;
    if (error?.code === "unavailable" && (ended.publication?.question || ended.repeats?.())) {
      sendLater(id, ended, error);
      return;
    }
    pending.delete(id);
    cancel(ended.timer);
    remove(ended.item);
    ended.settle(error, reply);
  };

  /** Sends a request again: the hub cannot reach its engine, or it shuts down. */
  const sendLater = (id: string, request: Pending, refusal: HubError) => {
    const { item, refusals = 0 } = request;
    item.sent = false;
    Object.assign(request, { refusal, refusals: refusals + 1 });
    request.timer = after(jitter(options.backoff, refusals), () => {
      if (request.keep) enqueue(item);
      else if (request.repeats!()) add(item);
      else finish(id, refusal);
    });
  };

  /** Ends a request without a reply. The hub may have carried it out if it was sent. */
  const fail = (id: string, error: HubError) => {
    (error as { outcomeUnknown: boolean }).outcomeUnknown = Boolean(pending.get(id)?.item.sent);
    finish(id, error);
  };

  /** Sends a request of the client itself, which has no time limit. */
  const request = (fields: MessageFields, settle: Pending["settle"] = noop, send = add, repeats?: () => boolean) => {
    const id = `${++lastId}`;
    const item = measure({ ...fields, id });
    pending.set(id, { item, settle, repeats });
    send(item);
  };

  return {
    pending,
    finish,
    fail,
    request,
    /** Sends a request of the application and returns a promise. `read` turns the reply into its value. */
    call<T>(
      fields: MessageFields,
      { timeout = options.timeout, signal }: CallOptions,
      read: (reply?: Message) => T,
      kind: CallKind = {},
    ): Promise<T> {
      const { leaves, publication } = kind;
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
        fail(id, new HubError("timeout", `no reply within ${timeout} ms`, { cause: pending.get(id)?.refusal }));
        core.connection?.probe();
      });
      calls++;
      if (publication) publication.question = publication.ask();
      pending.set(id, { publication, item, settle, keep: !leaves });
      try {
        transmit(item);
      } catch (error) {
        fail(id, error as HubError);
      }
      return promise;
    },

    /** Ends the requests that need a lost connection and cannot be sent again, or all of a closed client. */
    lost(newError: () => HubError, all?: boolean) {
      core.history?.reset();
      for (const [id, call] of pending) {
        if (!all && call.keep && !call.item.sent) continue;
        call.lost = newError();
        if (all || !call.publication?.question) fail(id, call.lost);
      }
    },
  };
}

export type Calls = ReturnType<typeof createCalls>;
