import { after, cancel, clock } from "./timers.js";

/** The longest wait for the reply to a probe, in milliseconds. */
const probeTimeout = 5000;

/**
 * Pings when nothing was received for an interval, and calls `lost` when nothing
 * was received for another interval.
 */
export function createHeartbeat(ping: () => void, lost: (ms: number) => void) {
  let interval = Infinity;
  let running = false;
  let heardAt = 0;
  let waiting = 0; // milliseconds to wait for the reply to a ping; 0 if none was sent
  let timer: unknown;

  const arm = (ms: number) => {
    cancel(timer);
    timer = after(ms, check);
  };
  const check = () => {
    const quiet = clock() - heardAt;
    if (waiting) lost(waiting);
    else if (quiet < interval) arm(interval - quiet);
    else probe(interval);
  };
  const probe = (wait: number) => {
    if (!running || waiting) return;
    waiting = wait;
    arm(wait);
    ping();
  };

  return {
    /** Begins, or changes the interval. 0: never. */
    start(ms: number) {
      interval = ms || Infinity;
      running = true;
      if (!waiting) arm(interval);
    },

    /** Records that a frame was received. */
    heard() {
      heardAt = clock();
      if (waiting) arm(interval);
      waiting = 0;
    },

    /** Checks at once whether the connection is alive. */
    probe: () => probe(Math.min(interval, probeTimeout)),

    stop() {
      running = false;
      cancel(timer);
    },
  };
}
