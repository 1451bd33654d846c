import { noop } from "./async.js";
import type { Calls, Question } from "./calls.js";
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

/** The maximum number of topics whose positions the client remembers. */
const maxPositions = 1024;

/** What a reply tells of a history. */
type Told = Partial<Position> & { conflate?: boolean };

/** A channel or room with its subscriptions. It has none after the client began to leave it. */
interface Topic {
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
  presence?: Presence | undefined;
}

/**
 * The channels and rooms that the application wants, on this connection and on later ones. `changed` is called when the
 * hub has confirmed one, and when one has ended.
 */
export function createTopics(core: Core, { encode }: Outbox, calls: Calls, changed: () => void) {
  const { call, request } = calls;
  const topics = new Map<string, Topic>();
  const positions = new Map<string, Position>(); // the latest known ones in histories that make keys unique
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

  /** Records the position that a reply tells. */
  const learn = (key: string, { conflate, epoch, offset = 0 }: Told) => {
    positions.delete(key);
    if (epoch && !conflate) positions.set(key, { epoch, offset });
    if (positions.size > maxPositions) positions.delete(positions.keys().next().value!);
  };

  /** Reports whether a subscription lacks a message, and moves its position behind it. */
  const passes = ({ epoch = "", key }: Topic, { begin, sub }: Handle, offset: number): boolean => {
    if (begin) return false;
    if (!offset) return true;
    if (sub.position?.epoch === epoch && sub.position.offset >= offset) return false;
    sub.position = { epoch, offset };
    if (positions.has(key)) positions.set(key, sub.position);
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
    const told: Partial<TopicResumed> & Told = reply.json() ?? {};
    const { conflate, epoch = "", offset = 0, replayed = 0 } = told;
    learn(topic.key, told);
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
    if (!core.told.includes("presence")) {
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
    const checked: SubscribeOptions & Begin = check(options);
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
    if (!topic?.handles.size) topics.set(key, (topic = { key, kind, name, handles: new Set() }));
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
      let topic = topics.get(keyOf(message.room ? "room" : "channel", channel));
      if (!offset) {
        if (type === "broadcast") return false;
        if (type === "room_message") topic = undefined;
        // Without an offset, a message of the application's own type belongs to the one that has no history.
        const room = type !== "message" && topics.get(keyOf("room", channel));
        if (room && (!topic || (topic.epoch && !room.epoch))) topic = room;
      }
      if (!topic) return false;
      const excepted = key && calls.excepts(key);
      for (const handle of [...topic.handles]) if (passes(topic, handle, offset) && !excepted) handle.receive(message);
      return true;
    },

    /** Handles the notice that messages were dropped, of one topic or of all. */
    gap({ all, channel, room }: GapFields) {
      for (const topic of topics.values()) {
        const { behindGap, handles, kind, name } = topic;
        if (!all && name !== (kind === "room" ? room : channel)) continue;
        for (const { begin, sub } of handles) if (behindGap && !begin) sub.position = behindGap;
        topic.behindGap = undefined;
        if (topic.active) askMembers(topic);
      }
    },

    /** Handles the reply to a publication. With exceptSelf the hub does not send it to this client: positions move behind it. */
    published(kind: Kind, name: string, told: Told, exceptSelf?: boolean) {
      const key = keyOf(kind, name);
      const { epoch = "", offset = 0 } = told;
      learn(key, told);
      for (const { sub } of topics.get(key)?.handles ?? []) {
        if (exceptSelf && sub.position?.epoch === epoch && sub.position.offset + 1 === offset) sub.position = { epoch, offset };
      }
    },

    /** Returns the question about a publication that is sent next; undefined if the hub could not answer it. */
    question(kind: Kind, name: string, key: string): Question | undefined {
      const since = core.told.includes("history") && positions.get(keyOf(kind, name));
      return since ? { user: core.client.user, data: { [kinds[kind][2]]: name, key, since } } : undefined;
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

    names: (kind: Kind): string[] => [...topics.values()].filter((topic) => topic.kind === kind).map(({ name }) => name),

    close(error?: HubError) {
      for (const { handles } of topics.values()) for (const handle of handles) handle.end(error);
      topics.clear();
    },
  };
}

export type Topics = ReturnType<typeof createTopics>;
