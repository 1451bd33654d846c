import type { Limits } from "./options.js";
import { clock } from "./timers.js";

/** The share of the hub's rates that a client uses: pongs and Close frames count too, and clocks differ. */
const share = 0.9;

/**
 * Limits messages and bytes per second to the hub's limits. It allows bursts of one
 * second's worth, which is half of what the hub allows.
 */
export function createPacing() {
  let perMessage = 1 / 1000; // seconds
  let perByte = 1 / (4 << 20);
  let messages = 0; // the clock when all messages sent so far have been earned
  let bytes = 0;

  return {
    limit({ messageRate, byteRate }: Limits) {
      perMessage = 1 / (messageRate || Infinity);
      perByte = 1 / (byteRate || Infinity);
    },

    spend(size: number) {
      messages = Math.max(messages, clock()) + (1000 / share) * perMessage;
      bytes = Math.max(bytes, clock()) + (1000 / share) * perByte * size;
    },

    /** Returns the milliseconds until more may be sent. */
    wait: () => Math.max(messages, bytes) - 1000 - clock(),
  };
}
