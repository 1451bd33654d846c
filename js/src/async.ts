export const noop = () => {};

/** Returns a promise and the functions that resolve and reject it. */
export function deferred<T>() {
  let settle!: [(value: T) => void, (error: unknown) => void];
  const promise = new Promise<T>((...both) => (settle = both));
  return [promise, ...settle] as const;
}

/** Turns an error into a rejection. */
export const attempt = <T>(task: () => Promise<T>): Promise<T> => {
  try {
    return task();
  } catch (error) {
    return Promise.reject(error);
  }
};

/** Runs `task` when the signal aborts. Returns the function that ends this. */
export function onAbort(signal: AbortSignal | undefined, task: () => void): () => void {
  signal?.addEventListener("abort", task);
  return () => signal?.removeEventListener("abort", task);
}
