import { base64url } from "./bytes.js";
import { check, checkName, checkType } from "./check.js";
import type { Calls } from "./calls.js";
import type { HubClient } from "./client.js";
import type { Core } from "./core.js";
import type { HubError } from "./errors.js";
import type { Message, Payload } from "./message.js";
import type { PublishOptions } from "./options.js";
import type { Outbox } from "./outbox.js";
import type { Requests } from "./requests.js";
import type { Kind, Topics } from "./topics.js";

/** Returns 128 random bits. */
const newKey = () => base64url(crypto.getRandomValues(new Uint8Array(16)));

/** Turns an error into a rejection. */
const attempt = <T>(task: () => Promise<T>): Promise<T> => {
  try {
    return task();
  } catch (error) {
    return Promise.reject(error);
  }
};

/** The methods with which an application sends. They are no methods of a class, so that they work without their object. */
export function createMethods(core: Core, { encode, transmit }: Outbox, { call }: Calls, topics: Topics, { handle }: Requests) {
  const { subscribe, unsubscribe } = topics;

  const publisher =
    (type: string, kind?: Kind) =>
    (channel: string | undefined, data?: Payload, given?: PublishOptions): Promise<void> =>
      attempt(() => {
        const unique = kind && core.features.includes("history");
        const { exceptSelf, ack = true, key = unique && ack ? newKey() : undefined, ...others } = check(given);
        if (kind) checkName(channel!);
        const fields = { type, channel, data, exceptSelf, key };
        if (ack) {
          const read = (reply?: Message) => {
            if (kind && reply) topics.published(kind, channel!, reply.json() ?? {}, exceptSelf);
          };
          const ask = kind && key ? () => topics.question(kind, channel!, key) : undefined;
          return call<void>(fields, others, read, { key, exceptSelf, ask });
        }
        const item = encode(fields);
        try {
          core.checkNotClosed();
          transmit(item);
        } catch (error) {
          core.listeners.report(error as HubError);
        }
        return Promise.resolve();
      });
  const broadcast = publisher("broadcast");

  const methods: Partial<HubClient> = {
    subscribe: (...all) => subscribe("channel", ...all),
    joinRoom: (...all) => subscribe("room", ...all),
    unsubscribe: (...all) => attempt(() => unsubscribe("channel", ...all)),
    leaveRoom: (...all) => attempt(() => unsubscribe("room", ...all)),
    publish: publisher("publish", "channel"),
    publishRoom: publisher("publish_room", "room"),
    broadcast: (...all) => broadcast(undefined, ...all),

    handle,
    request: (type, data, given) =>
      attempt(() => {
        checkType(type, true);
        return call({ type, data }, check(given), (reply) => reply!);
      }),

    send(type, data, given) {
      checkType(type);
      const { channel, volatile } = check(given);
      core.checkNotClosed();
      const item = encode({ type, channel, data });
      if (volatile && !core.isOpen()) return false;
      transmit(item);
      return true;
    },
  };
  return methods;
}
