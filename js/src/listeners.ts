import { onAbort } from "./async.js";
import { callbackNames, check, checkFunction } from "./check.js";
import { HubError } from "./errors.js";
import type { Callbacks, Events } from "./options.js";

/** Returns the name of the callback for an event, if there is such an event. */
const callbackOf = (type: string) => callbackNames.find((name) => name.toLowerCase() === `on${type}`);

/** The listeners of a client. Its callbacks, which the options give it, may be replaced at any time. */
export function createListeners(callbacks: Callbacks, options: Callbacks) {
  for (const name of callbackNames) (callbacks as any)[name] = options[name];
  const all: { [type: string]: Set<unknown> } = {};
  const warned = new Set<string>();

  /** Calls a function of the application and reports its errors. */
  const run = async (callback: any, argument: unknown, failed: (cause: unknown) => void = fail) => {
    try {
      await callback(argument);
    } catch (cause) {
      failed(cause);
    }
  };

  const fail = (cause: unknown) => {
    const why = cause instanceof Error ? `: ${cause.message}` : "";
    report(new HubError("handler", `a handler failed${why}`, { cause }));
  };

  const emit = <Type extends keyof Events>(type: Type, detail: Events[Type]): boolean => {
    const listeners = [callbacks[callbackOf(type)!], ...(all[type] ?? [])].filter(Boolean);
    for (const listener of listeners) void run(listener, detail, type === "error" ? console.error : fail);
    return listeners.length > 0;
  };

  const report = (error: HubError) => {
    if (emit("error", error) || warned.has(error.code)) return;
    warned.add(error.code);
    console.warn(error);
  };

  const off = (type: string, listener: unknown) => {
    all[type]?.delete(listener);
  };

  const on = (type: string, listener: unknown, options?: { signal?: AbortSignal | undefined }) => {
    if (!callbackOf(type)) throw new TypeError(`there is no event ${type}`);
    checkFunction(listener);
    const { signal } = check(options);
    const end = () => off(type, listener);
    if (!signal?.aborted) (all[type] ??= new Set()).add(listener);
    onAbort(signal, end);
    return end;
  };

  return { run, emit, fail, report, on, off };
}

export type Listeners = ReturnType<typeof createListeners>;
