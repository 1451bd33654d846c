import { noop } from "./async.js";
import type { Calls } from "./calls.js";
import { check, checkFunction, checkName } from "./check.js";
import type { Core } from "./core.js";
import type { HubError } from "./errors.js";
import type { Message, MessageFields } from "./message.js";
import type { CallOptions, Handler } from "./options.js";
import type { Outbox } from "./outbox.js";
import { createSubscription, type Handle, type SubscribeOptions, type Subscription } from "./subscription.js";

/** The message types that begin and end a membership, and its key in control data. */
const kinds = {
  channel: ["subscribe", "unsubscribe", "channel"],
  room: ["join_room", "leave_room", "room_id"],
} as const;

export type Kind = keyof typeof kinds;

/** The message types that only this file sends. */
export const topicTypes: readonly string[] = Object.values(kinds).flatMap(([begin, end]) => [begin, end]);

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

/** The channels and rooms that the application wants, on this connection and on later ones. `changed` is called when one was confirmed or has ended. */
export function createTopics(core: Core, { encode }: Outbox, { call, request }: Calls, changed: () => void) {
  const topics = new Map<string, Topic>();
  const keyOf = (kind: Kind, name: string) => kind + name;

  /** Returns the request that begins (0) or ends (1) a membership. */
  const control = (verb: 0 | 1, kind: Kind, name: string): MessageFields => ({
    type: kinds[kind][verb],
    data: core.options.codec.target(kinds[kind][2], name),
  });

  const remove = (topic: Topic) => {
    const key = keyOf(topic.kind, topic.name);
    if (topics.get(key) === topic) topics.delete(key);
    changed();
  };

  const ask = (topic: Topic) => {
    if (topic.asked) return;
    topic.asked = true;
    request(control(0, topic.kind, topic.name), (error) => {
      if (!error) {
        topic.active = true;
        for (const handle of topic.handles) handle.confirm();
        changed();
        return;
      }
      topic.asked = false;
      // A hub that shuts down refuses all requests as unavailable; the next connection asks again.
      if (["unavailable", "disconnected"].includes(error.code) || !topic.handles.size) return;
      remove(topic);
      for (const handle of topic.handles) handle.end(error, true);
    });
  };

  /** Ends all subscriptions of a topic, and those that the server made. */
  const unsubscribe = (kind: Kind, name: string, options?: CallOptions): Promise<void> => {
    const topic = topics.get(keyOf(kind, checkName(name)));
    const checked = check(options);
    for (const handle of topic?.handles ?? []) handle.end();
    topic?.handles.clear();
    const gone = () => {
      if (topic) remove(topic);
    };
    // The hub ends memberships with their connection, so without one there is nothing to send.
    if (!core.isOpen()) return Promise.resolve(gone());
    const left = call(control(1, kind, name), checked, gone, true);
    changed();
    left.catch(noop);
    return left;
  };

  const subscribe = (kind: Kind, name: string, onMessage?: Handler, options?: SubscribeOptions): Subscription => {
    if (onMessage) checkFunction(onMessage);
    const checked: SubscribeOptions = check(options);
    encode(control(0, kind, checkName(name)));
    const key = keyOf(kind, name);
    let topic = topics.get(key);
    const handle = createSubscription({ kind, name }, onMessage, checked, core.listeners, (ended) =>
      topic?.handles.delete(ended) && !topic.handles.size ? unsubscribe(kind, name) : Promise.resolve(),
    );
    if (core.isClosed() || checked.signal?.aborted) {
      handle.end(core.isClosed() ? core.newClosedError() : undefined);
      return handle.sub;
    }
    if (!topic?.handles.size) topics.set(key, (topic = { kind, name, handles: new Set() }));
    topic.handles.add(handle);
    if (topic.active) handle.confirm();
    else if (core.isOpen()) ask(topic);
    return handle.sub;
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
            (type !== "message" && topics.get(keyOf("room", channel)));
      if (!topic) return false;
      for (const handle of [...topic.handles]) handle.receive(message);
      return true;
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
      for (const { handles } of topics.values()) for (const handle of handles) handle.end(error);
      topics.clear();
    },
  };
}

export type Topics = ReturnType<typeof createTopics>;
