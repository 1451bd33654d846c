/** Returns the wait before the next attempt. Full jitter spreads out the clients that reconnect to a restarted hub. */
export const backoff = (failures: number, base: number, max: number): number =>
  Math.random() * Math.min(max, 2 ** 31 - 1, base * 2 ** failures);
