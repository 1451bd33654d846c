import { deferred, noop, onAbort } from "./async.js";
import type { Begin, Position } from "./codec.js";
import { HubError } from "./errors.js";
import type { Listeners } from "./listeners.js";
import type { Message } from "./message.js";
import type { CallOptions, Handler } from "./options.js";
import type { Member, Members, PresenceHandler } from "./presence.js";
import type { Writable } from "./core.js";

/** The maximum number of messages that wait for a loop. */
const maxBuffered = 1024;

export interface SubscribeOptions {
  /** Ends the subscription when it aborts. */
  signal?: AbortSignal | undefined;
  /** Passes the latest publications of the history first, as many as this number. Defaults to 0. */
  last?: number | undefined;
  /** Passes the publications behind a position of the history first, such as the `position` of a subscription that has ended. Null means none. */
  since?: Position | null | undefined;
  /**
   * Makes the client follow the members of the channel or room, and is told each change: at first all members, this
   * client among them, and after a reconnect the difference.
   */
  onPresence?: PresenceHandler | undefined;
  /** Is told why the subscription ended, if the hub refused it. Otherwise the client's onError is. */
  onError?: ((error: HubError) => unknown) | undefined;
}

/** How the client has joined a channel or room. */
export interface TopicResumed extends Position {
  /** The number of publications that the hub sends from the history. */
  replayed: number;
  /** True if nothing is missing since the position from which the subscription goes on. */
  complete: boolean;
  /** Why something may be missing: "none" (there is no history), "expired", or "epoch" (the history has begun anew). */
  reason?: string;
}

export interface HistoryQuery extends CallOptions {
  /** Publications behind a position. Null means none. */
  since?: Position | null | undefined;
  /** Publications before an offset. */
  before?: number | undefined;
  /** The maximum number of publications. Defaults to 100, at most 1000. */
  limit?: number | undefined;
}

/** A part of a history. The position is that of the latest publication in the history. */
export interface HistoryPage extends Position {
  /** Oldest first. */
  messages: Message[];
  /** True if nothing that was asked for is missing before the messages. */
  complete: boolean;
  /** Why something is missing, as in `TopicResumed`. */
  reason?: string;
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
  /** The place behind the latest message that was passed on; undefined without a history or the feature `history`. */
  readonly position: Position | undefined;
  /** How the client has joined the latest time, at first or after a reconnect; undefined without the feature `history`. */
  readonly resumed: TopicResumed | undefined;
  /**
   * Returns the members, those that joined first first. It follows them with `onPresence` only; otherwise it is empty.
   * Missing without the feature `presence`.
   */
  members(): Member[];
  /** Reads publications that the history has. Only members may. Missing without the feature `history`. */
  history(query?: HistoryQuery): Promise<HistoryPage>;
  /** Ends this subscription. The client leaves the channel or room with the last one. */
  unsubscribe(): Promise<void>;
}

/** One subscription, as its topic sees it. */
export interface Handle {
  sub: Writable<Subscription>;
  /** Where it begins, until the hub has confirmed that. */
  begin?: Begin | undefined;
  /** Tells the changes of the members, if the subscription follows them. */
  changed?(members: Members): void;
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
    if (tell) onError ? void listeners.run(onError, error) : listeners.report(error!);
  };

  /** Ends the subscription, and the membership if it was the last one. */
  const stop = (error?: HubError): Promise<void> => {
    const ended = sub.state === "ended";
    end(error, Boolean(error));
    return ended ? Promise.resolve() : leave(handle);
  };
  const stopWaiting = onAbort(signal, () => void stop());

  const sub = {
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
  } as Partial<Handle["sub"]> as Handle["sub"]; // features add the rest

  const handle: Handle = {
    sub,
    end,
    confirm() {
      sub.state = "active";
      resolve();
    },
    receive(message) {
      if (sub.state === "ended") return;
      if (onMessage) void listeners.run(onMessage, message);
      if (!buffer) return;
      if (buffer.push(message) > maxBuffered) {
        void stop(new HubError("overflow", `${maxBuffered} messages wait for a loop`, { target: name }));
      }
      wake();
    },
  };
  return handle;
}
