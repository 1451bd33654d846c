/** Milliseconds of a clock that is never set. */
export const clock = (): number => performance.now();

/** Runs task after a delay. setTimeout would run it at once after a delay of 2^31 ms or more: `after` never runs it then. */
export const after = (ms: number, task: () => void): unknown =>
  ms < 2 ** 31 ? setTimeout(task, ms) : undefined;

export const cancel = (timer: unknown) => clearTimeout(timer as undefined);
