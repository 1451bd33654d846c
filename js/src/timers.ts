/** Milliseconds of a clock that is never set. */
export const clock = (): number => performance.now();

/** Runs task after a delay. setTimeout would run it at once after a delay of 2^31 ms or more: `after` never runs it then. */
export const after = (ms: number, task: () => void): unknown =>
  ms < 2 ** 31 ? setTimeout(task, ms) : undefined;

/** Returns a wait in milliseconds that doubles with each failure. Full jitter spreads out the clients of a restarted hub. */
export const jitter = ({ base, max }: { base: number; max: number }, failures: number): number =>
  Math.random() * Math.min(max, 2 ** 31 - 1, base * 2 ** failures);

export const cancel = (timer: unknown) => clearTimeout(timer as undefined);
