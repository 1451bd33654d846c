import { noop } from "./async.js";
import type { Calls } from "./calls.js";
import { check, checkFunction, checkName } from "./check.js";
import type { Begin, GapFields, Position } from "./codec.js";
import type { Core } from "./core.js";
import type { HubError } from "./errors.js";
import type { Message, MessageFields } from "./message.js";
import type { CallOptions, Handler } from "./options.js";
import type { Outbox } from "./outbox.js";
import type { Members } from "./presence.js";
import { createSubscription, type Handle, type SubscribeOptions, type Subscription } from "./subscription.js";

/** The message types that begin and end a membership, and its key in control data. */
const kinds = {
  channel: ["subscribe", "unsubscribe", "channel"],
  room: ["join_room", "leave_room", "room_id"],
} as const;

export type Kind = keyof typeof kinds;

/** A channel or room with its subscriptions. It has none after the client began to leave it. */
export interface Topic {
  /** Its key among the topics. */
  key: string;
  kind: Kind;
  name: string;
  handles: Set<Handle>;
  /** True after the client asked for it on this connection. */
  asked?: boolean;
  /** True after the hub confirmed it on this connection. */
  active?: boolean;
  /** The epoch of the history; undefined if there is none. */
  epoch?: string;
  /** The end of a resume that replays nothing, until its gap has arrived. */
  behindGap?: Position | undefined;
  /** The members, if a subscription follows them. */
  members?: Members | undefined;
}

export const keyOf = (kind: Kind, name: string): string => kind + name;

/** Returns the data that names a topic to the hub, in JSON. */
export const nameOf = (kind: Kind, name: string) => ({ [kinds[kind][2]]: name });

/**
 * The channels and rooms that the application wants, on this connection and on later ones. `changed` is called when the
 * hub has confirmed one, and when one has ended.
 */
export function createTopics(core: Core, { encode }: Outbox, { call, request }: Calls, changed: () => void) {
  const topics = new Map<string, Topic>();

  /** Returns the request that begins (0) or ends (1) a membership. */
  const control = (verb: 0 | 1, kind: Kind, name: string, begin?: Begin): MessageFields => ({
    type: kinds[kind][verb],
    data: core.options.codec.target(kinds[kind][2], name, begin),
  });

  /** Takes a subscription from its topic. Reports whether it was there. */
  const drop = (topic: Topic, handle: Handle): boolean => {
    const dropped = topic.handles.delete(handle);
    core.presence?.dropped(topic);
    return dropped;
  };

  const remove = (topic: Topic) => {
    if (topics.get(topic.key) === topic) topics.delete(topic.key);
    changed();
  };

  /** Asks the hub for a membership. A subscription that begins in the past asks for itself. */
  const ask = (topic: Topic) => {
    if (topic.asked) return;
    topic.asked = true;
    const handles = [...topic.handles];
    if (handles.some(({ begin }) => !begin)) askFor(topic);
    for (const handle of handles) if (handle.begin) askFor(topic, handle);
  };

  /** Asks for one subscription, or for all that do not begin in the past. */
  const askFor = (topic: Topic, own?: Handle) => {
    const begin = own ? own.begin : core.history?.sinceOf(topic);
    const waiting = () => [...topic.handles].filter((handle) => (own ? handle === own : !handle.begin));
    const settle = (error?: HubError, reply?: Message) => {
      const handles = waiting();
      if (!error) {
        topic.active = true;
        core.history?.joined(topic, handles, begin, reply!);
        for (const handle of handles) handle.confirm();
        core.presence?.ask(topic);
        changed();
        return;
      }
      if (!own) topic.asked = false;
      // It is unavailable, and no subscription waits for it.
      if (["unavailable", "disconnected"].includes(error.code)) return;
      for (const handle of handles) drop(topic, handle);
      if (!topic.handles.size) remove(topic);
      for (const handle of handles) handle.end(error, true);
    };
    request(control(0, topic.kind, topic.name, begin), settle, undefined, () => waiting().length > 0);
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
    const left = call(control(1, kind, name), checked, gone, { leaves: true });
    changed();
    left.catch(noop);
    return left;
  };

  const subscribe = (kind: Kind, name: string, onMessage?: Handler, options?: SubscribeOptions): Subscription => {
    if (onMessage) checkFunction(onMessage);
    const checked: SubscribeOptions & Begin = check(options, {}, core.kinds);
    const begin = core.history?.begin(checked);
    encode(control(0, kind, checkName(name), begin));
    const key = keyOf(kind, name);
    let topic = topics.get(key);
    const leave = (ended: Handle) =>
      topic && drop(topic, ended) && !topic.handles.size ? unsubscribe(kind, name) : Promise.resolve();
    const handle = createSubscription({ kind, name }, onMessage, checked, core.listeners, leave);
    core.history?.added(handle, begin);
    core.presence?.added(handle, checked);
    if (core.isClosed() || checked.signal?.aborted) {
      handle.end(core.isClosed() ? core.newClosedError() : undefined);
      return handle.sub;
    }
    if (!topic?.handles.size) topics.set(key, (topic = { key, kind, name, handles: new Set() }));
    topic.handles.add(handle);
    if (topic.active && !begin) {
      // The client is in it already: the subscription begins now.
      core.history?.joinedLater(topic, handle);
      handle.confirm();
      core.presence?.joinedLater(topic, handle);
    } else if (topic.asked && begin) askFor(topic, handle);
    else if (core.isOpen()) ask(topic);
    return handle.sub;
  };

  return {
    subscribe,
    unsubscribe,

    get: (kind: Kind, name: string) => topics.get(keyOf(kind, name)),

    /** Passes a message to the subscriptions of its topic, if there are any. */
    deliver(message: Message): boolean {
      const { type, channel, offset } = message;
      if (core.presence?.take(message)) return true;
      let topic = topics.get(keyOf(message.room ? "room" : "channel", channel));
      if (!offset) {
        if (type === "broadcast") return false;
        if (type === "room_message") topic = undefined;
        // Without an offset, a message of the application's own type belongs to the one that has no history.
        const room = type !== "message" && topics.get(keyOf("room", channel));
        if (room && (!topic || (topic.epoch && !room.epoch))) topic = room;
      }
      if (!topic) return false;
      for (const handle of [...topic.handles]) {
        if (core.history?.passes(topic, handle, message) ?? true) handle.receive(message);
      }
      return true;
    },

    /** Handles the notice that messages were dropped, of one topic or of all. */
    gap({ all, channel, room }: GapFields) {
      for (const topic of topics.values()) {
        if (!all && topic.name !== (topic.kind === "room" ? room : channel)) continue;
        core.history?.gap(topic);
        if (topic.active) core.presence?.ask(topic);
      }
    },

    /** Returns the topics of which publications may be missing after a lost connection. */
    incomplete: () =>
      [...topics.values()].flatMap(({ kind, name, handles }) => {
        const handle = [...handles].find(({ sub }) => !core.history || sub.resumed?.complete === false);
        return handle ? { kind, name, reason: handle.sub.resumed?.reason ?? "none" } : [];
      }),

    restore: () => topics.forEach(ask),

    /** Forgets the memberships of a lost connection. */
    reset() {
      for (const [key, topic] of topics) {
        topic.asked = topic.active = false;
        if (topic.members) topic.members.known = false;
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
