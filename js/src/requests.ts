import { attempt } from "./async.js";
import type { Calls } from "./calls.js";
import { check, checkFunction, checkType } from "./check.js";
import type { Core } from "./core.js";
import { HubError } from "./errors.js";
import type { Feature } from "./feature.js";
import type { Message, Payload } from "./message.js";
import type { CallOptions, RequestHandler } from "./options.js";
import type { Outbox, Outgoing } from "./outbox.js";

export interface RequestMethods {
  /**
   * Sends a request of an application-defined type to the server, and resolves with the answer of its handler. Rejects
   * with a HubError if the handler refuses. A server without a handler does not answer: then it is a timeout.
   */
  request(type: string, data?: Payload, options?: CallOptions): Promise<Message>;
  /** Answers the server's requests of a type. Returns the function that removes the handler. */
  handle(type: string, handler: RequestHandler): () => void;
}

/** Requests to the server and of the server: `request`, `handle`, and the option `handlers`. */
export const requests: Feature<RequestMethods> = {
  kinds: { handlers: "object" },
  install: createRequests,
};

function createRequests(core: Core, { encode, measure, send }: Outbox, { call }: Calls): RequestMethods {
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

  // Answers a request over the connection on which it came.
  core.answer = async (message) => {
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
  };

  return {
    handle,
    request: (type, data, given) =>
      attempt(() => {
        checkType(type, true);
        return call({ type, data }, check(given), (reply) => reply!);
      }),
  };
}
