import { base64url } from "./bytes.js";
import type { Calls, Pending } from "./calls.js";
import type { Core } from "./core.js";
import type { Message } from "./message.js";
import type { Outbox } from "./outbox.js";

/** The question whether the hub has a publication, and the user who may ask. */
interface Question {
  user: string;
  data: object;
}

/** A publication that is sent again after a lost connection if the hub has not got it. */
export interface Publication {
  key: string | undefined;
  exceptSelf: boolean | undefined;
  /** The question about it, from the time when it was sent. */
  question?: Question | undefined;
  /** Returns the question if it is sent next; undefined if the hub could not answer it. */
  ask(): Question | undefined;
  /** Handles the reply; undefined if the hub has told that it has the publication. */
  published(reply?: Message): void;
}

/** The maximum number of keys that are remembered after their calls, less one. */
const maxReplayed = 255;

/** Sends publications once, although connections are lost. */
export function createRepeat(core: Core, { add, release }: Outbox, { fail, finish, pending, request }: Calls) {
  let replayed: string[] = []; // keys of ended calls whose publications are for others, and may still come in a replay
  let asked = 0; // the questions that the hub has not answered on this connection

  /** Handles an answer. After the last one it sends the lost publications again, and then all that was held. */
  const answered = () => {
    if (--asked) return;
    for (const call of pending.values()) {
      if (call.item.sent) continue;
      // A refused publication may be in the history all the same: the older question remains.
      if (call.publication && !call.refusal) call.publication.question = call.publication.ask();
      if (call.lost) add(call.item);
      delete call.lost;
    }
    release();
  };

  return {
    /** Returns a key that makes a publication unique, 128 random bits, if the hub has histories. */
    newKey: () => (core.features.includes("history") ? base64url(crypto.getRandomValues(new Uint8Array(16))) : undefined),

    /** Reports whether a key is that of a publication that excepts this client. */
    excepts: (key: string): boolean =>
      replayed.includes(key) || [...pending.values()].some(({ publication: one }) => one?.exceptSelf && one.key === key),

    /** Forgets the questions of a lost connection. */
    reset() {
      asked = 0;
    },

    /** Asks the hub, once on a connection, whether it has the lost publications. Those that it certainly has not are sent again. */
    repeat() {
      if (asked) return;
      asked = 1;
      for (const [id, { item, lost, publication }] of pending) {
        if (!lost || !item.sent) continue;
        const { exceptSelf, key, question } = publication!;
        const take: Pending["settle"] = (_error, reply) => {
          if (!asked) return; // the connection is lost
          const { complete, published } = reply?.json() ?? {};
          if (published) {
            if (exceptSelf) replayed = [...replayed.slice(-maxReplayed), key!];
            finish(id);
          } else if (complete) item.sent = false;
          else fail(id, lost);
          answered();
        };
        asked++;
        if (publication!.ask()?.user === question!.user) request({ type: "hub:published", data: question!.data }, take, undefined, () => true);
        else take();
      }
      answered();
    },
  };
}
