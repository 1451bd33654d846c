import { attempt } from "./async.js";
import { check, checkName, checkType } from "./check.js";
import type { Calls } from "./calls.js";
import type { CoreClient } from "./client.js";
import type { Core } from "./core.js";
import type { HubError } from "./errors.js";
import type { Message, Payload } from "./message.js";
import type { Published, PublishOptions } from "./options.js";
import type { Outbox } from "./outbox.js";
import type { Kind, Topics } from "./topics.js";

/** The methods with which an application sends. They are no methods of a class, so that they work without their object. */
export function createMethods(core: Core, { encode, transmit }: Outbox, { call }: Calls, { subscribe, unsubscribe }: Topics) {
  const publisher =
    (type: string, kind?: Kind) =>
    (channel: string | undefined, data?: Payload, given?: PublishOptions): Promise<Published> =>
      attempt(() => {
        const { exceptSelf, trace, ack = true, key = kind && ack && core.history?.newKey(), ...others } = check(given);
        if (kind) checkName(channel!);
        const fields = { type, channel, data, exceptSelf, key, trace };
        if (ack) {
          const publication = kind && core.history?.publication(kind, channel!, key, exceptSelf);
          const read = (reply?: Message): Published => {
            publication?.published(reply);
            return { local: reply?.json()?.local === true };
          };
          return call(fields, others, read, { publication });
        }
        const item = encode(fields);
        try {
          core.checkNotClosed();
          transmit(item);
        } catch (error) {
          core.listeners.report(error as HubError);
        }
        return Promise.resolve({ local: false });
      });
  const broadcast = publisher("broadcast");

  const methods: Partial<CoreClient> = {
    subscribe: (...all) => subscribe("channel", ...all),
    joinRoom: (...all) => subscribe("room", ...all),
    unsubscribe: (...all) => attempt(() => unsubscribe("channel", ...all)),
    leaveRoom: (...all) => attempt(() => unsubscribe("room", ...all)),
    publish: publisher("publish", "channel"),
    publishRoom: publisher("publish_room", "room"),
    broadcast: (...all) => broadcast(undefined, ...all),

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
