import { deferred, noop, onAbort } from "./async.js";
import { HubError } from "./errors.js";
import type { Listeners } from "./listeners.js";
import type { Message } from "./message.js";
import type { Handler } from "./options.js";
import type { Writable } from "./core.js";

/** The maximum number of messages that wait for a loop. */
const maxBuffered = 1024;

export interface SubscribeOptions {
  /** Ends the subscription when it aborts. */
  signal?: AbortSignal | undefined;
  /** Is told why the subscription ended, if the hub refused it. Otherwise the client's onError is. */
  onError?: ((error: HubError) => unknown) | undefined;
}

/**
 * A lasting wish for the messages of a channel or room. It begins when the hub
 * confirms it, is restored after a lost connection, and ends with `unsubscribe`,
 * its signal, the client, or the hub's refusal.
 *
 * `for await` receives its messages too. At most 1024 messages wait for the
 * loop: beyond that the subscription ends and the loop throws a HubError
 * "overflow". Leaving the loop ends the subscription.
 */
export interface Subscription extends AsyncIterable<Message> {
  readonly kind: "channel" | "room";
  readonly name: string;
  /** "active" while the hub has confirmed it on this connection. */
  readonly state: "pending" | "active" | "ended";
  /** Why the subscription ended, unless the application ended it. */
  readonly error: HubError | undefined;
  /** Resolves when the hub confirms the subscription, and rejects if it ends before. */
  readonly ready: Promise<void>;
  /** Ends this subscription. The client leaves the channel or room with the last one. */
  unsubscribe(): Promise<void>;
}

/** One subscription, as its topic sees it. */
export interface Handle {
  sub: Writable<Subscription>;
  receive(message: Message): void;
  confirm(): void;
  /** Ends it. With `tell`, an error listener is told the error. */
  end(error?: HubError, tell?: boolean): void;
}

/** Returns a subscription that is pending. `leave` takes it from its topic, and leaves the topic if it was the last one. */
export function createSubscription(
  { kind, name }: Pick<Subscription, "kind" | "name">,
  onMessage: Handler | undefined,
  { signal, onError }: SubscribeOptions,
  listeners: Listeners,
  leave: (handle: Handle) => Promise<void>,
): Handle {
  const [ready, resolve, reject] = deferred<void>();
  ready.catch(noop);
  let buffer: Message[] | undefined = onMessage ? undefined : [];
  let wake = noop;

  const end = (error?: HubError, tell?: boolean) => {
    if (sub.state === "ended") return;
    sub.state = "ended";
    sub.error = error;
    stopWaiting();
    reject(error ?? new HubError("aborted", "the subscription has ended"));
    wake();
    if (tell) onError ? listeners.run(onError, error) : listeners.report(error!);
  };

  /** Ends the subscription, and the membership if it was the last one. */
  const stop = (error?: HubError): Promise<void> => {
    const ended = sub.state === "ended";
    end(error, Boolean(error));
    return ended ? Promise.resolve() : leave(handle);
  };
  const stopWaiting = onAbort(signal, () => void stop());

  const sub: Handle["sub"] = {
    kind,
    name,
    state: "pending",
    error: undefined,
    ready,
    unsubscribe: () => stop(),

    async *[Symbol.asyncIterator]() {
      buffer ??= [];
      try {
        for (;;) {
          while (buffer.length) yield buffer.shift()!;
          if (sub.error) throw sub.error;
          if (sub.state === "ended") return;
          await new Promise<void>((resolve) => (wake = resolve));
        }
      } finally {
        void stop();
      }
    },
  };

  const handle: Handle = {
    sub,
    end,
    confirm() {
      sub.state = "active";
      resolve();
    },
    receive(message) {
      if (sub.state === "ended") return;
      if (onMessage) listeners.run(onMessage, message);
      if (!buffer) return;
      if (buffer.push(message) > maxBuffered) {
        void stop(new HubError("overflow", `${maxBuffered} messages wait for a loop`, { target: name }));
      }
      wake();
    },
  };
  return handle;
}
