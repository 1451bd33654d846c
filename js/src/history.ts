import type { Calls } from "./calls.js";
import { check, checkPosition, isCount } from "./check.js";
import { json } from "./codec-json.js";
import type { Begin, Position } from "./codec.js";
import type { Core } from "./core.js";
import type { Feature } from "./feature.js";
import { memberSources } from "./json-text.js";
import type { Message } from "./message.js";
import type { Outbox } from "./outbox.js";
import { createRepeat, type Publication } from "./repeat.js";
import type { Handle, HistoryPage, HistoryQuery, SubscribeOptions, TopicResumed } from "./subscription.js";
import { keyOf, type Kind, nameOf, type Topic, type Topics } from "./topics.js";

/** The maximum number of topics whose positions the client remembers. */
const maxPositions = 1024;

/** What a reply tells of a history. */
type Told = Partial<Position> & { after?: number; conflate?: boolean };

/**
 * Positions in histories: subscriptions that begin in the past and go on behind their latest message after a lost
 * connection, `history()`, and publications that are sent again with the same key if the hub has not got them.
 */
export const history: Feature = {
  kinds: { before: isCount, last: isCount, limit: isCount, since: "object" },
  install(core, outbox, calls, topics) {
    core.history = createHistory(core, outbox, calls, topics);
  },
};

function createHistory(core: Core, outbox: Outbox, calls: Calls, topics: Topics) {
  const positions = new Map<string, Position>(); // the latest known ones in histories that make keys unique
  const { excepts, ...repeat } = createRepeat(core, outbox, calls);

  /** Records the position that a reply tells. */
  const learn = (key: string, { conflate, epoch, offset = 0 }: Told) => {
    positions.delete(key);
    if (epoch && !conflate) positions.set(key, { epoch, offset });
    if (positions.size > maxPositions) positions.delete(positions.keys().next().value!);
  };

  /** Reads a page. Requests for the hub itself are JSON in every codec. */
  const read = async ({ kind, name }: Handle["sub"], query?: HistoryQuery): Promise<HistoryPage> => {
    const { signal, timeout, ...asked } = check(query, {}, core.kinds);
    checkPosition(asked.since);
    return calls.call({ type: "hub:history", data: { ...nameOf(kind, name), ...asked } }, { signal, timeout }, (reply) => {
      const messages = new Map(memberSources(reply!.text())).get("messages") ?? "[]";
      const decoded = memberSources(messages).flatMap(([, text]) => (text ? json.decode(text) : []));
      return { ...reply!.json(), messages: decoded };
    });
  };

  return {
    ...repeat,

    /** Returns where a subscription with these options begins, if not with the next message. */
    begin({ last, since }: SubscribeOptions & Begin): Begin | undefined {
      checkPosition(since);
      if (since && last) throw new TypeError("invalid option last: there is since");
      return since ? { since } : last ? { last } : undefined;
    },

    /** Prepares a new subscription. */
    added(handle: Handle, begin?: Begin) {
      const { sub } = handle;
      handle.begin = begin;
      sub.position = begin?.since;
      sub.resumed = undefined;
      sub.history = (query) => read(sub, query);
    },

    /** Returns the position behind which subscriptions of a topic lack publications, if it has a history. */
    sinceOf({ epoch, handles }: Topic): Begin | undefined {
      const positions = [...handles].flatMap(({ begin, sub }) => (epoch && !begin && sub.position) || []);
      // A subscription of another epoch has nothing of this one.
      const since = positions.find((position) => position.epoch !== epoch) ?? positions.sort((a, b) => a.offset - b.offset)[0];
      return since && { since };
    },

    /** Handles the hub's confirmation for subscriptions, of a request that began in `asked`. */
    joined(topic: Topic, handles: Handle[], asked: Begin | undefined, reply: Message) {
      const told: Partial<TopicResumed> & Told = reply.json() ?? {};
      const { after, conflate, epoch = "", offset = 0, replayed = 0 } = told;
      learn(topic.key, told);
      topic.epoch = epoch;
      topic.behindGap = told.complete === false && !replayed ? { epoch, offset } : undefined;
      for (const handle of handles) {
        const { begin, sub } = handle;
        if (!epoch) sub.position = undefined;
        // Of the latest publications the hub leaves out those that are not for this client, so `replayed` may be less. With
        // `conflate` they may be of any age.
        else if (!sub.position) sub.position = { epoch, offset: conflate && replayed ? 0 : (after ?? Math.max(0, offset - (begin?.last ?? 0))) };
        // A position that the history has not reached would hide the next publications.
        else if (sub.position.epoch === epoch && sub.position.offset > offset) sub.position = { epoch, offset: 0 };
        const complete = told.complete ?? !(asked?.since || sub.resumed);
        handle.begin = undefined;
        sub.resumed = { epoch, offset, replayed, complete, ...(complete ? {} : { reason: told.reason ?? "none" }) };
      }
    },

    /** Handles that a subscription has joined a topic in which the client is already. It begins now. */
    joinedLater({ epoch = "", handles }: Topic, { sub }: Handle) {
      const offset = Math.max(0, ...[...handles].map(({ sub }) => (sub.position?.epoch === epoch && sub.position.offset) || 0));
      if (epoch) sub.position = { epoch, offset };
      sub.resumed = { epoch, offset, replayed: 0, complete: true };
    },

    /** Reports whether a subscription gets a message, and moves its position behind it. */
    passes({ epoch = "", key }: Topic, { begin, sub }: Handle, { key: unique, offset }: Message): boolean {
      if (begin) return false;
      if (offset) {
        if (sub.position?.epoch === epoch && sub.position.offset >= offset) return false;
        sub.position = { epoch, offset };
        if (positions.has(key)) positions.set(key, sub.position);
      }
      return !unique || !excepts(unique);
    },

    /** Handles the notice that messages of a topic were dropped. */
    gap(topic: Topic) {
      const { behindGap, handles } = topic;
      for (const { begin, sub } of handles) if (behindGap && !begin) sub.position = behindGap;
      topic.behindGap = undefined;
    },

    /** Returns how a publication is sent again after a lost connection. */
    publication(kind: Kind, name: string, key: string | undefined, exceptSelf?: boolean): Publication {
      const topicKey = keyOf(kind, name);
      return {
        key,
        exceptSelf,
        ask() {
          const since = key && core.told.includes("history") && positions.get(topicKey);
          return since ? { user: core.client.user, data: { ...nameOf(kind, name), key, since } } : undefined;
        },
        // With exceptSelf the hub does not send it to this client: positions move behind it.
        published(reply) {
          if (!reply) return;
          const told: Told = reply.json() ?? {};
          const { epoch = "", offset = 0 } = told;
          learn(topicKey, told);
          for (const { sub } of topics.get(kind, name)?.handles ?? []) {
            if (exceptSelf && sub.position?.epoch === epoch && sub.position.offset + 1 === offset) sub.position = { epoch, offset };
          }
        },
      };
    },
  };
}

export type HistoryPart = ReturnType<typeof createHistory>;
