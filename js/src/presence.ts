import type { Calls } from "./calls.js";
import type { Core } from "./core.js";
import { HubError } from "./errors.js";
import type { Feature } from "./feature.js";
import type { Message } from "./message.js";
import type { Handle, SubscribeOptions } from "./subscription.js";
import { nameOf, type Topic, type Topics } from "./topics.js";

/** A client that is in a channel or room with presence. */
export interface Member {
  readonly clientId: string;
  /** The user's name; empty without one. */
  readonly user: string;
  /** Data that the hub's application has set with Client.SetInfo. */
  readonly info: any;
  /** When it joined, in Unix milliseconds. */
  readonly since: number;
  /** The name of its node in a cluster; empty without one. */
  readonly node: string;
}

/** The argument of `onPresence`. A user with several clients is several members. */
export interface PresenceChange {
  joined: Member[];
  left: Member[];
  /** Those of which the user or the info is another. */
  updated: Member[];
}

export type PresenceHandler = (change: PresenceChange) => unknown;

const toMember = ({ client_id: clientId = "", user = "", info, since = 0, node = "" }: any): Member => ({
  clientId,
  user,
  info,
  since,
  node,
});

const lists: { [type: string]: string } = { leave: "leaves", join: "joins", update: "updates" };

/** Returns the data of a message about the members of a topic; undefined if it is another message. */
function presenceData(message: Message): any {
  if (message.offset || !(message.type in lists || message.type === "presence_diff")) return undefined;
  try {
    return message.json() ?? undefined;
  } catch {
    return undefined; // of the application
  }
}

/** The members of a topic. */
function createMembers() {
  const members = new Map<string, Member>();

  return {
    /** True after the hub has told the members on this connection. Until then changes are not reported. */
    known: false,
    /** The latest request for the members, until its reply. */
    asked: undefined as object | undefined,

    /** The members, those that joined first first. */
    list: () => [...members.values()].sort((a, b) => a.since - b.since || (a.clientId < b.clientId ? -1 : 1)),

    /** Puts the members that the hub has told in the place of all. */
    set(told: any[]) {
      const before = new Map(members);
      members.clear();
      for (const member of told.map(toMember)) {
        const known = before.get(member.clientId);
        members.set(member.clientId, JSON.stringify(known) === JSON.stringify(member) ? known! : member);
      }
    },

    /** Applies a message about the members. */
    apply({ type, clientId }: Message, data: any) {
      const told: { [list: string]: any[] } = type in lists ? { [lists[type]!]: [{ ...data, client_id: clientId }] } : data;
      const { leaves = [], joins = [], updates = [] } = told;
      for (const { client_id: id } of leaves) members.delete(id);
      for (const one of joins) members.set(one.client_id, toMember(one));
      for (const { client_id: id, user = "", info } of updates) {
        const known = members.get(id);
        if (known) members.set(id, { ...known, user, info });
      }
    },

    /** Returns the difference to an earlier list, if there is one. */
    changes(reported: Member[]): PresenceChange | undefined {
      const before = new Map(reported.map((member) => [member.clientId, member]));
      const change: PresenceChange = { joined: [], left: reported.filter(({ clientId }) => !members.has(clientId)), updated: [] };
      for (const member of this.list()) {
        const known = before.get(member.clientId);
        if (known !== member) change[known ? "updated" : "joined"].push(member);
      }
      return change.joined.length + change.left.length + change.updated.length ? change : undefined;
    },
  };
}

export type Members = ReturnType<typeof createMembers>;

/** Follows the members of channels and rooms: `onPresence` and `members()` of subscriptions. */
export const presence: Feature = {
  kinds: { onPresence: "function" },
  install(core, _outbox, calls, topics) {
    core.presence = createPresence(core, calls, topics);
  },
};

function createPresence(core: Core, { request }: Calls, topics: Topics) {
  const isFollowed = ({ handles }: Topic) => [...handles].some(({ changed }) => changed);

  /** Asks the hub for the members of a topic, if a subscription follows them. */
  const ask = (topic: Topic) => {
    const { handles, kind, name } = topic;
    if (!isFollowed(topic)) return;
    if (!core.told.includes("presence")) {
      core.listeners.report(new HubError("unsupported", "the hub has no presence", { target: name }));
      return;
    }
    const members = (topic.members ??= createMembers());
    const asked = (members.asked = {});
    request({ type: "hub:presence", data: nameOf(kind, name) }, (error, reply) => {
      if (topic.members !== members || members.asked !== asked || error?.code === "disconnected") return;
      members.asked = undefined;
      if (error) {
        if (error.code !== "unavailable") core.listeners.report(error);
        return;
      }
      members.set(reply!.json().members ?? []);
      members.known = true;
      for (const handle of handles) handle.changed?.(members);
    });
  };

  return {
    ask,

    /** Prepares a new subscription. */
    added(handle: Handle, { onPresence }: SubscribeOptions) {
      let members: Member[] = [];
      handle.sub.members = () => members;
      if (!onPresence) return;
      handle.changed = (all) => {
        const change = all.changes(members);
        if (!change) return;
        members = all.list();
        void core.listeners.run(onPresence, change);
      };
    },

    /** Handles that a subscription has joined a topic in which the client is already. */
    joinedLater(topic: Topic, handle: Handle) {
      const { members } = topic;
      if (!handle.changed) return;
      if (members?.known) handle.changed(members);
      else if (!members?.asked) ask(topic);
    },

    /** Forgets the members if no subscription follows them any more. */
    dropped(topic: Topic) {
      if (!isFollowed(topic)) topic.members = undefined;
    },

    /** Takes a message about members that are followed. Reports whether it was one. */
    take(message: Message): boolean {
      const data = presenceData(message);
      const topic = data && topics.get(data.room ? "room" : "channel", message.channel);
      const members: Members | undefined = topic?.members;
      if (!members) return false;
      members.apply(message, data);
      if (members.known) for (const handle of topic.handles) handle.changed?.(members);
      return true;
    },
  };
}

export type PresencePart = ReturnType<typeof createPresence>;
