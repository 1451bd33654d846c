import { noop } from "./async.js";
import type { Calls } from "./calls.js";
import { check, checkFunction, checkName, checkPosition } from "./check.js";
import type { Begin, GapFields, Position } from "./codec.js";
import type { Core } from "./core.js";
import { HubError } from "./errors.js";
import type { Message, MessageFields } from "./message.js";
import type { CallOptions, Handler } from "./options.js";
import { readHistory } from "./history.js";
import type { Outbox } from "./outbox.js";
import { createPresence, type Presence, presenceData } from "./presence.js";
import { createSubscription, type Handle, type TopicResumed, type SubscribeOptions, type Subscription } from "./subscription.js";

/** The message types that begin and end a membership, and its key in control data. */
const kinds = {
  channel: ["subscribe", "unsubscribe", "channel"],
  room: ["join_room", "leave_room", "room_id"],
} as const;

export type Kind = keyof typeof kinds;

/** A channel or room with its subscriptions. It has none after the client began to leave it. */
interface Topic {
  kind: Kind;
  name: string;
  handles: Set<Handle>;
  /** True after the client asked for it on this connection. */
  asked?: boolean;
  /** True after the hub confirmed it on this connection. */
  active?: boolean;
  /** The epoch of the history; undefined if there is none. */
  epoch?: string;
  /**
   * Names the history for as long as the client has missed no publication of it. 0 if keys do not make publications
   * unique in it.
   */
  unbroken?: number;
  /** The number of publications that are to come before the client has all of a history in which nothing is lost. */
  replaying?: number;
  /** The end of a resume that replays nothing, until its gap has arrived. */
  behindGap?: Position | undefined;
  /** The members, if a subscription follows them. */
  presence?: Presence | undefined;
}

/**
 * The channels and rooms that the application wants, on this connection and on later ones. `changed` is called when the
 * hub has confirmed one, and when one has ended.
 */
export function createTopics(core: Core, { encode }: Outbox, calls: Calls, changed: () => void) {
  const { call, request } = calls;
  const topics = new Map<string, Topic>();
  let lastUnbroken = 0;
  const keyOf = (kind: Kind, name: string) => kind + name;

  /** Returns the request that begins (0) or ends (1) a membership. */
  const control = (verb: 0 | 1, kind: Kind, name: string, begin?: Begin): MessageFields => ({
    type: kinds[kind][verb],
    data: core.options.codec.target(kinds[kind][2], name, begin),
  });

  /** Confirms a subscription to a topic that the client is in already. It begins now. */
  const join = (topic: Topic, handle: Handle) => {
    const { epoch = "" } = topic;
    const offset = Math.max(0, ...[...topic.handles].map(({ sub }) => (sub.position?.epoch === epoch && sub.position.offset) || 0));
    if (epoch) handle.sub.position = { epoch, offset };
    handle.confirm({ epoch, offset, replayed: 0, complete: true });
    if (!handle.follows) return;
    if (topic.presence?.known) handle.changed(topic.presence);
    else if (!topic.presence?.asked) askMembers(topic);
  };

  /** Reports whether a subscription lacks a message, and moves its position behind it. */
  const passes = ({ epoch = "" }: Topic, { begin, sub }: Handle, offset: number): boolean => {
    if (begin) return false;
    if (!offset) return true;
    if (sub.position?.epoch === epoch && sub.position.offset >= offset) return false;
    sub.position = { epoch, offset };
    return true;
  };

  const isFollowed = ({ handles }: Topic) => [...handles].some(({ follows }) => follows);

  /** Takes a subscription from its topic. Reports whether it was there. */
  const drop = (topic: Topic, handle: Handle): boolean => {
    const dropped = topic.handles.delete(handle);
    if (!isFollowed(topic)) topic.presence = undefined;
    return dropped;
  };

  const remove = (topic: Topic) => {
    const key = keyOf(topic.kind, topic.name);
    if (topics.get(key) === topic) topics.delete(key);
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

  const askFor = (topic: Topic, own?: Handle) => {
    const begin = own ? own.begin : sinceOf(topic);
    request(control(0, topic.kind, topic.name, begin), (error, reply) => {
      if (!error) {
        joined(topic, own, begin?.since, reply!);
        return;
      }
      if (!own) topic.asked = false;
      // A hub that shuts down refuses all requests as unavailable; the next connection asks again.
      if (["unavailable", "disconnected"].includes(error.code)) return;
      const refused = [...topic.handles].filter((handle) => (own ? handle === own : !handle.begin));
      for (const handle of refused) drop(topic, handle);
      if (!topic.handles.size) remove(topic);
      for (const handle of refused) handle.end(error, true);
    });
  };

  /** Returns the position behind which subscriptions of a topic lack publications, if it has a history. */
  const sinceOf = ({ epoch, handles }: Topic): Begin | undefined => {
    const positions = [...handles].flatMap(({ begin, sub }) => (epoch && !begin && sub.position) || []);
    // A subscription of another epoch has nothing of this one.
    const since = positions.find((position) => position.epoch !== epoch) ?? positions.sort((a, b) => a.offset - b.offset)[0];
    return since && { since };
  };

  /** Handles the hub's confirmation. It is that of one subscription, or of all that do not begin in the past. */
  const joined = (topic: Topic, own: Handle | undefined, since: Position | undefined, reply: Message) => {
    const told: Partial<TopicResumed> & { conflate?: boolean } = reply.json() ?? {};
    const { conflate, epoch = "", offset = 0, replayed = 0 } = told;
    // The first reply of a connection is that of all subscriptions that do not begin in the past, if there are any.
    if (!topic.active) {
      const complete = !own && since && told.complete;
      topic.replaying = complete ? replayed : 0;
      if (!complete) topic.unbroken = ++lastUnbroken;
    }
    if (!epoch || conflate) topic.unbroken = topic.replaying = 0;
    topic.active = true;
    topic.epoch = epoch;
    topic.behindGap = told.complete === false && !replayed ? { epoch, offset } : undefined;
    for (const handle of topic.handles) {
      const { begin, sub } = handle;
      if (own ? handle !== own : begin) continue;
      if (!epoch) sub.position = undefined;
      // Of the latest publications the hub leaves out those that are not for this client, so `replayed` may be less. With
      // `conflate` they may be of any age.
      else if (!sub.position) sub.position = { epoch, offset: conflate && replayed ? 0 : Math.max(0, offset - (begin?.last ?? 0)) };
      // A position that the history has not reached would hide the next publications.
      else if (sub.position.epoch === epoch && sub.position.offset > offset) sub.position = { epoch, offset: 0 };
      const complete = told.complete ?? !(since || sub.resumed);
      handle.confirm({ epoch, offset, replayed, complete, ...(complete ? {} : { reason: told.reason ?? "none" }) });
    }
    askMembers(topic);
    changed();
  };

  /** Asks the hub for the members of a topic, if a subscription follows them. */
  const askMembers = (topic: Topic) => {
    const { handles, kind, name } = topic;
    if (!isFollowed(topic)) return;
    if (!core.features.includes("presence")) {
      core.listeners.report(new HubError("unsupported", "the hub has no presence", { target: name }));
      return;
    }
    const presence = (topic.presence ??= createPresence());
    const asked = (presence.asked = {});
    request({ type: "hub:presence", data: { [kinds[kind][2]]: name } }, (error, reply) => {
      if (topic.presence !== presence || presence.asked !== asked || error?.code === "disconnected") return;
      presence.asked = undefined;
      if (error) {
        if (error.code !== "unavailable") core.listeners.report(error);
        return;
      }
      presence.set(reply!.json().members ?? []);
      presence.known = true;
      for (const handle of handles) handle.changed(presence);
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
    const left = call(control(1, kind, name), checked, gone, { leaves: true });
    changed();
    left.catch(noop);
    return left;
  };

  const subscribe = (kind: Kind, name: string, onMessage?: Handler, options?: SubscribeOptions): Subscription => {
    if (onMessage) checkFunction(onMessage);
    const checked: SubscribeOptions = check(options);
    const { last, since } = checked;
    checkPosition(since);
    if (since && last) throw new TypeError("invalid option last: there is since");
    encode(control(0, kind, checkName(name), { last, since }));
    const key = keyOf(kind, name);
    let topic = topics.get(key);
    const leave = (ended: Handle) =>
      topic && drop(topic, ended) && !topic.handles.size ? unsubscribe(kind, name) : Promise.resolve();
    const handle = createSubscription({ kind, name }, onMessage, checked, core.listeners, leave, (query) =>
      readHistory(call, kinds[kind][2], name, query),
    );
    if (core.isClosed() || checked.signal?.aborted) {
      handle.end(core.isClosed() ? core.newClosedError() : undefined);
      return handle.sub;
    }
    if (!topic?.handles.size) topics.set(key, (topic = { kind, name, handles: new Set() }));
    topic.handles.add(handle);
    if (topic.active && !handle.begin) join(topic, handle);
    else if (topic.asked && handle.begin) askFor(topic, handle);
    else if (core.isOpen()) ask(topic);
    return handle.sub;
  };

  return {
    subscribe,
    unsubscribe,

    /** Passes a message to the subscriptions of its topic, if there are any. */
    deliver(message: Message): boolean {
      const { type, channel, key, offset } = message;
      const members = presenceData(message);
      const present = members && topics.get(keyOf(members.room ? "room" : "channel", channel));
      if (present?.presence) {
        present.presence.apply(message, members);
        if (present.presence.known) for (const handle of present.handles) handle.changed(present.presence);
        return true;
      }
      if (type === "broadcast") return false;
      let topic = type !== "room_message" && topics.get(keyOf("channel", channel));
      const room = type !== "message" && topics.get(keyOf("room", channel));
      // Application-defined types do not say whether `channel` names a channel or a room. An offset does if one has a history.
      const unclear = topic && room && !topic.epoch === !room.epoch;
      if (room && (!topic || (!unclear && !room.epoch === !offset))) topic = room;
      if (!topic) return false;
      const excepted = key && calls.received(key);
      for (const handle of [...topic.handles]) if (passes(topic, handle, unclear ? 0 : offset) && !excepted) handle.receive(message);
      for (const each of [topic, unclear && room]) if (each && offset && each.replaying && !--each.replaying) changed();
      return true;
    },

    /** Handles the notice that messages were dropped, of one topic or of all. */
    gap({ all, channel, room }: GapFields) {
      for (const topic of topics.values()) {
        const { behindGap, handles, kind, name } = topic;
        if (!all && name !== (kind === "room" ? room : channel)) continue;
        for (const { begin, sub } of handles) if (behindGap && !begin) sub.position = behindGap;
        topic.behindGap = undefined;
        topic.replaying = 0;
        if (topic.unbroken) topic.unbroken = ++lastUnbroken;
        if (topic.active) askMembers(topic);
      }
      changed();
    },

    /** Moves positions behind a publication that the hub does not send to this client, its publisher. */
    skip(kind: Kind, name: string, { epoch, offset }: Position) {
      for (const { sub } of topics.get(keyOf(kind, name))?.handles ?? []) {
        if (sub.position?.epoch === epoch && sub.position.offset + 1 === offset) sub.position = { epoch, offset };
      }
    },

    /** Returns where the hub publishes a publication with a key once only; undefined if that is not certain. */
    scope(kind: Kind, name: string): string | undefined {
      const unbroken = topics.get(keyOf(kind, name))?.unbroken;
      return core.told && unbroken ? `${unbroken} ${core.client.user}` : undefined;
    },

    /** Returns the topics of which publications may be missing after a lost connection. */
    incomplete: () =>
      [...topics.values()].flatMap(({ kind, name, handles }) =>
        [...handles].flatMap(({ sub }) => (sub.resumed?.complete === false ? { kind, name, reason: sub.resumed.reason! } : [])).slice(0, 1),
      ),

    restore: () => topics.forEach(ask),

    /** Forgets the memberships of a lost connection. */
    reset() {
      for (const [key, topic] of topics) {
        topic.asked = topic.active = false;
        if (topic.presence) topic.presence.known = false;
        for (const { sub } of topic.handles) sub.state = "pending";
        if (!topic.handles.size) topics.delete(key);
      }
    },

    /** Reports whether the hub confirmed all topics. */
    restored: () => [...topics.values()].every(({ active, handles }) => active || !handles.size),

    /** Reports whether publications that the client has missed are still to come. */
    replaying: () => [...topics.values()].some(({ replaying }) => replaying),

    names: (kind: Kind): string[] => [...topics.values()].filter((topic) => topic.kind === kind).map(({ name }) => name),

    close(error?: HubError) {
      for (const { handles } of topics.values()) for (const handle of handles) handle.end(error);
      topics.clear();
    },
  };
}

export type Topics = ReturnType<typeof createTopics>;
