import { noop } from "./async.js";
import { check, checkName } from "./check.js";
import type { Calls } from "./calls.js";
import type { HubClient } from "./client.js";
import type { Core } from "./core.js";
import type { HubError } from "./errors.js";
import type { Payload } from "./message.js";
import type { PublishOptions } from "./options.js";
import type { Outbox } from "./outbox.js";
import { type Topics, topicTypes } from "./topics.js";

/** Turns an error into a rejection. */
const attempt = (task: () => Promise<void>): Promise<void> => {
  try {
    return task();
  } catch (error) {
    return Promise.reject(error);
  }
};

/** The methods with which an application sends. They are no methods of a class, so that they work without their object. */
export function createMethods(core: Core, { encode, transmit }: Outbox, { call }: Calls, { subscribe, unsubscribe }: Topics) {
  const publisher =
    (type: string) =>
    (channel: string | undefined, data?: Payload, given?: PublishOptions): Promise<void> =>
      attempt(() => {
        const { exceptSelf, ack = true, ...others } = check(given);
        if (type !== "broadcast") checkName(channel!);
        const fields = { type, channel, data, exceptSelf };
        if (ack) return call(fields, others, noop);
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
    publish: publisher("publish"),
    publishRoom: publisher("publish_room"),
    broadcast: (...all) => broadcast(undefined, ...all),

    send(type, data, given) {
      if (typeof type !== "string") throw new TypeError("a message type must be a string");
      if (topicTypes.includes(type)) throw new TypeError(`use the client's method for ${type}`);
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
