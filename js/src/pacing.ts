import type { Limits } from "./options.js";
import { clock } from "./timers.js";

/** The share of the hub's rates that a client uses: pongs and Close frames count too, and clocks differ. */
const share = 0.9;

/** The limits of a client until the hub tells its own: below those of any useful hub. */
export const safeLimits: Limits = { messageRate: 20, byteRate: 1 << 17 };

/** The default limits of a hub, for an older one that does not tell its limits. */
export const defaultLimits: Limits = { messageRate: 1000, byteRate: 1 << 22 };

/**
 * Limits messages and bytes per second to the hub's limits. It allows bursts of one
 * second's worth, which is half of the bursts that the hub allows.
 */
export function createPacing() {
  let rates = [0, 0]; // messages and bytes per second
  let ahead = [0, 0]; // the messages and bytes that were sent too early
  let updated = 0;

  const update = () => {
    const seconds = (clock() - updated) / 1000;
    updated += seconds * 1000;
    ahead = ahead.map((count, i) => Math.max(0, count - seconds * rates[i]!));
  };

  return {
    limit(limits: Limits) {
      update();
      rates = [limits.messageRate, limits.byteRate].map((rate) => share * (rate || 1e99));
    },

    spend(size: number) {
      update();
      ahead[0]! += 1;
      ahead[1]! += size;
    },

    /** Returns the milliseconds until more may be sent. */
    wait() {
      update();
      return Math.ceil(1000 * Math.max(...ahead.map((count, i) => count / rates[i]!)) - 999);
    },
  };
}
