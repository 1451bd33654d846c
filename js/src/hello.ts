import type { Calls } from "./calls.js";
import type { Core } from "./core.js";
import type { Limits } from "./options.js";
import type { Outbox } from "./outbox.js";
import { defaultLimits } from "./pacing.js";

/** The heartbeat if neither the application nor the hub tells one, in milliseconds. */
const defaultHeartbeat = 15_000;

/**
 * The request with which a connection begins. `settled` is called after the reply, or when another reply shows that the
 * hub is an older one, which does not reply to it.
 */
export function createHello(core: Core, { limit, send }: Outbox, { request }: Calls, settled: () => void) {
  const { client, options } = core;

  return {
    greet() {
      core.greeted = false;
      core.told = [];
      core.connection!.startHeartbeat(options.heartbeat ?? defaultHeartbeat);
      const take = (error: unknown, message: any) => {
        if (error) return;
        const { client_id: id = "", user = "", limits = {}, heartbeat = defaultHeartbeat, features = [] } = message.json() ?? {};
        const all: { [name: string]: number } = {};
        for (const name in limits) all[name.replace(/_./g, (two) => two[1]!.toUpperCase())] = limits[name];
        Object.assign(client, { id, user, limits: all });
        core.greeted = true;
        core.features = core.told = features;
        limit(all as Limits);
        settled();
        core.connection!.startHeartbeat(options.heartbeat ?? heartbeat);
      };
      request({ type: "hub:hello", data: { features: ["goaway"] } }, take, send);
    },

    /** Sends a request that does nothing. */
    ping() {
      // Every hub replies to this one.
      const leave = { type: "unsubscribe", data: options.codec.target("channel", "hub:ping") };
      request(core.told.includes("ping") ? { type: "hub:ping" } : leave, undefined, send);
    },

    /** Is called after every reply. A hub that replies to another request first does not know hub:hello. */
    replied() {
      if (core.greeted) return;
      core.greeted = true;
      limit(defaultLimits);
      settled();
    },
  };
}

export type Hello = ReturnType<typeof createHello>;
