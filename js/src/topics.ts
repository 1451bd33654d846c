import { check, checkFunction, checkName } from "./check.js";
import type { Codec } from "./codec.js";
import { HubError } from "./errors.js";
import type { Listeners } from "./listeners.js";
import type { Message, MessageFields } from "./message.js";
import type { CallOptions, Handler } from "./options.js";

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

type Writable<T> = { -readonly [K in keyof T]: T[K] };

/** The message types that begin and end a membership, and its key in control data. */
const kinds = {
  channel: ["subscribe", "unsubscribe", "channel"],
  room: ["join_room", "leave_room", "room_id"],
} as const;

export type Kind = keyof typeof kinds;

/** The message types that only this file sends. */
export const topicTypes: readonly string[] = ["subscribe", "unsubscribe", "join_room", "leave_room"];

/** One subscription, as its topic sees it. */
interface Handle {
  sub: Writable<Subscription>;
  receive(message: Message): void;
  confirm(): void;
  /** Ends it. With `tell`, an error listener is told the error. */
  end(error?: HubError, tell?: boolean): void;
}

/** A channel or room with its subscriptions. It has none after the client began to leave it. */
interface Topic {
  kind: Kind;
  name: string;
  handles: Set<Handle>;
  /** True after the client asked for it on this connection. */
  asked?: boolean;
  /** True after the hub confirmed it on this connection. */
  active?: boolean;
}

/** What topics need of their client. */
interface Client {
  codec: Codec;
  listeners: Listeners;
  isOpen(): boolean;
  /** Throws if the message is too large. */
  encode(fields: MessageFields): unknown;
  /** Sends a request without a time limit. */
  request(fields: MessageFields, acked: () => void, refused: (error: HubError) => void): void;
  /** Sends a request that succeeds when the connection is lost. */
  leave(fields: MessageFields, options: CallOptions | undefined, acked: () => void): Promise<void>;
  /** Is called when a topic was confirmed or has ended. */
  changed(): void;
  /** Returns why the client is closed, if it is. */
  closedError(): HubError | undefined;
}

const noop = () => {};

/** The channels and rooms that the application wants, on this connection and on later ones. */
export function createTopics({ codec, listeners, isOpen, encode, request, leave, changed, closedError }: Client) {
  const topics = new Map<string, Topic>();
  const keyOf = (kind: Kind, name: string) => `${kind} ${name}`;

  /** Returns the request that begins (0) or ends (1) a membership. */
  const control = (verb: 0 | 1, kind: Kind, name: string): MessageFields => ({
    type: kinds[kind][verb],
    data: codec.target(kinds[kind][2], name),
  });

  const remove = (topic: Topic) => {
    const key = keyOf(topic.kind, topic.name);
    if (topics.get(key) === topic) topics.delete(key);
    changed();
  };

  const ask = (topic: Topic) => {
    if (topic.asked) return;
    topic.asked = true;
    request(
      control(0, topic.kind, topic.name),
      () => {
        topic.active = true;
        for (const handle of topic.handles) handle.confirm();
        changed();
      },
      (error) => {
        topic.asked = false;
        // A hub that shuts down refuses all requests as unavailable; the next connection asks again.
        if (error.code === "unavailable" || !topic.handles.size) return;
        remove(topic);
        for (const handle of [...topic.handles]) handle.end(error, true);
      },
    );
  };

  /** Ends all subscriptions of a topic, and those that the server made. */
  const unsubscribe = (kind: Kind, name: string, options?: CallOptions): Promise<void> => {
    const topic = topics.get(keyOf(kind, checkName(name)));
    check(options);
    for (const handle of [...(topic?.handles ?? [])]) handle.end();
    const gone = () => topic && remove(topic);
    // The hub ends memberships with their connection, so without one there is nothing to send.
    const open = isOpen();
    const left = open ? leave(control(1, kind, name), options, gone) : Promise.resolve(gone());
    if (open) changed();
    left.catch(noop);
    return left;
  };

  const subscribe = (kind: Kind, name: string, onMessage?: Handler, options?: SubscribeOptions): Subscription => {
    if (onMessage) checkFunction(onMessage);
    const { signal, onError } = check(options);
    encode(control(0, kind, checkName(name)));
    let topic = topics.get(keyOf(kind, name));
    let buffer: Message[] | undefined = onMessage ? undefined : [];
    let wake = noop;
    let settle: [() => void, (error: unknown) => void];

    const end = (error?: HubError, tell?: boolean) => {
      if (sub.state === "ended") return;
      sub.state = "ended";
      sub.error = error;
      topic?.handles.delete(handle);
      signal?.removeEventListener("abort", abort);
      settle[1](error ?? new HubError("aborted", "the subscription has ended"));
      wake();
      if (tell) onError ? listeners.run(onError, error) : listeners.report(error!);
    };

    /** Ends the subscription, and the membership if it was the last one. */
    const stop = (error?: HubError): Promise<void> => {
      const last = sub.state !== "ended" && topic?.handles.size === 1;
      end(error, Boolean(error));
      return last ? unsubscribe(kind, name) : Promise.resolve();
    };
    const abort = () => void stop();

    const sub: Writable<Subscription> = {
      kind,
      name,
      state: "pending",
      error: undefined,
      ready: new Promise((...both) => (settle = both)),
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
    sub.ready.catch(noop);

    const handle: Handle = {
      sub,
      end,
      confirm() {
        sub.state = "active";
        settle[0]();
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

    const closed = closedError();
    if (closed || signal?.aborted) {
      end(closed);
      return sub;
    }
    signal?.addEventListener("abort", abort);
    if (!topic?.handles.size) topics.set(keyOf(kind, name), (topic = { kind, name, handles: new Set() }));
    topic.handles.add(handle);
    if (topic.active) handle.confirm();
    else if (isOpen()) ask(topic);
    return sub;
  };

  return {
    subscribe,
    unsubscribe,

    /** Passes a message to the subscriptions of its topic, if there are any. */
    deliver(message: Message): boolean {
      const { type, channel } = message;
      // Application-defined types do not say whether `channel` names a channel or a room.
      const topic =
        type === "broadcast"
          ? undefined
          : (type !== "room_message" && topics.get(keyOf("channel", channel))) ||
            (type !== "message" && topics.get(keyOf("room", channel))) ||
            undefined;
      for (const handle of [...(topic?.handles ?? [])]) handle.receive(message);
      return topic !== undefined;
    },

    restore: () => topics.forEach(ask),

    /** Forgets the memberships of a lost connection. */
    reset() {
      for (const [key, topic] of topics) {
        topic.asked = topic.active = false;
        for (const { sub } of topic.handles) sub.state = "pending";
        if (!topic.handles.size) topics.delete(key);
      }
    },

    /** Reports whether the hub confirmed all topics. */
    restored: () => [...topics.values()].every(({ active, handles }) => active || !handles.size),

    names: (kind: Kind): string[] => [...topics.values()].filter((topic) => topic.kind === kind).map(({ name }) => name),

    close(error?: HubError) {
      for (const { handles } of topics.values()) for (const handle of [...handles]) handle.end(error);
      topics.clear();
    },
  };
}
