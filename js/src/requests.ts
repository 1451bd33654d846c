import { checkFunction, checkType } from "./check.js";
import type { Core } from "./core.js";
import { HubError } from "./errors.js";
import type { Message, Payload } from "./message.js";
import type { RequestHandler } from "./options.js";
import type { Outbox, Outgoing } from "./outbox.js";

/** The requests of the hub, and the application's handlers that answer them. */
export function createRequests(core: Core, { encode, measure, send }: Outbox) {
  const handlers = new Map<string, RequestHandler>();

  const handle = (type: string, handler: RequestHandler) => {
    checkType(type, true);
    checkFunction(handler);
    if (handlers.has(type)) throw new TypeError(`the type ${type} has a handler already`);
    handlers.set(type, handler);
    return () => {
      if (handlers.get(type) === handler) handlers.delete(type);
    };
  };
  for (const [type, handler] of Object.entries(core.options.handlers ?? {})) handle(type, handler);

  return {
    handle,

    /** Answers a request over the connection on which it came. */
    async answer(message: Message) {
      const { type, id } = message;
      const { connection } = core;
      let item: Outgoing;
      try {
        const handler = handlers.get(type);
        if (!handler) throw new HubError("unsupported", "no handler for this type");
        item = encode({ type: "ack", id, data: (await handler(message)) as Payload });
      } catch (error) {
        let data = { code: "internal", message: "internal error" };
        if (error instanceof HubError) data = { code: error.code, message: error.message };
        else core.listeners.fail(error);
        item = measure({ type: "error", id, data });
      }
      if (core.isOpen() && core.connection === connection) send(item);
    },
  };
}

export type Requests = ReturnType<typeof createRequests>;
