import type { Message } from "./message.js";

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
export function presenceData(message: Message): any {
  if (message.offset || !(message.type in lists || message.type === "presence_diff")) return undefined;
  try {
    return message.json() ?? undefined;
  } catch {
    return undefined; // of the application
  }
}

/** The members of a topic. */
export function createPresence() {
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

export type Presence = ReturnType<typeof createPresence>;
