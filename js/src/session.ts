import { noop, onAbort } from "./async.js";
import { type Calls, createCalls } from "./calls.js";
import { checkOptions, type Kinds } from "./check.js";
import type { CoreClient } from "./client.js";
import type { Close } from "./connection.js";
import type { Core, Writable } from "./core.js";
import { dial } from "./dial.js";
import { HubError } from "./errors.js";
import type { Feature } from "./feature.js";
import { createHello, type Hello } from "./hello.js";
import { createListeners } from "./listeners.js";
import { createMethods } from "./methods.js";
import { watchNetwork } from "./network.js";
import type { Message } from "./message.js";
import type { Options, State } from "./options.js";
import { createOutbox, type Outbox } from "./outbox.js";
import { createReceiver, type Receiver } from "./receiver.js";
import { createReconnect } from "./reconnect.js";
import { after, cancel } from "./timers.js";
import { createTopics, type Topics } from "./topics.js";

/** Gives a client its methods, and everything behind them. */
export function createSession(
  url: string,
  given: Options | undefined,
  client: Writable<CoreClient>,
  features: readonly Feature<unknown>[],
): void {
  const kinds: Kinds = Object.assign({}, ...features.map(({ kinds }) => kinds));
  const options = checkOptions(given, kinds);
  const listeners = createListeners(client, options);
  const core: Core = {
    client,
    options,
    listeners,
    kinds,
    giveUp: noop,
    features: [],
    told: [],
    isOpen: () => client.state === "open",
    isClosed: () => client.state === "closed",
    newClosedError() {
      const { code, reason, error } = core.ended!;
      return new HubError("closed", `the client is closed: ${code} ${reason}`, { cause: error ?? core.ended });
    },
    checkNotClosed() {
      if (core.isClosed()) throw core.newClosedError();
    },
  };
  const outbox = createOutbox(core);
  const calls = createCalls(core, outbox);
  /** Is called when the hub has replied to hub:hello, and when the state of a topic has changed. */
  const settled = () => {
    if (core.greeted && topics.restored()) core.history?.repeat();
    receiver.resumed();
  };
  const topics = createTopics(core, outbox, calls, settled);
  const hello = createHello(core, outbox, calls, settled);
  const receiver = createReceiver(core, calls, topics, hello);
  const { on, off } = listeners;
  const life = createLife(core, url, outbox, calls, topics, hello, receiver);
  const methods = createMethods(core, outbox, calls, topics);
  Object.assign(client, { state: "connecting", id: "", user: "", limits: undefined, on, off }, methods, life);
  for (const { install } of features) Object.assign(client, install(core, outbox, calls, topics));
}

/**
 * The life of a client, whose connections follow one another:
 *
 *     connecting -> open <-> reconnecting -> closed
 *
 * `opened` leads to open, `lost` to reconnecting, and `finish` from every state to closed.
 */
function createLife(
  core: Core,
  url: string,
  outbox: Outbox,
  calls: Calls,
  topics: Topics,
  hello: Hello,
  receiver: Receiver,
) {
  const { client, options, listeners, isOpen, isClosed, newClosedError } = core;
  const reconnect = createReconnect(core);
  let leaving = false; // since the slot of hub:goaway
  let retryTimer: unknown; // set while the client waits for the next attempt, and for its slot after hub:goaway
  let openedAt = 0;
  let closing: Promise<void> | undefined; // resolves when the last connection has ended
  let stopWatching: (() => void)[] = [];

  const notify = (previous: State, close?: Partial<Close> & { retryIn?: number }) => {
    listeners.emit("statechange", { state: client.state, previous, ...close });
  };

  const connect = () => {
    if (isClosed()) return;
    cancel(retryTimer);
    retryTimer = undefined;
    void dial(core, url, reconnect.renew, {
      opened,
      message,
      ping: hello.ping,
      ended: (close, final) => (final ? finish(close) : lost(close)),
    });
  };

  /** Requests the topics before it sends the queued messages, which may depend on them. */
  const opened = () => {
    const previous = client.state;
    client.state = "open";
    openedAt = Date.now();
    leaving = false;
    reconnect.renew = false;
    outbox.restart(() => {
      hello.greet();
      topics.restore();
    });
    if (!isOpen()) return;
    notify(previous);
    receiver.resumed();
  };

  const message = (message: Message) => {
    if (message.type !== "hub:goaway") return receiver.receive(message);
    // The hub drains, and has chosen the time at which this client reconnects.
    const delay = message.json()?.delay;
    if (leaving || !(delay >= 0)) return;
    cancel(retryTimer);
    retryTimer = after(delay, () => leave(20));
  };

  /** Replaces the connection when the hub has replied to what was sent, at the latest after a number of turns. */
  const leave = (turns: number) => {
    leaving = true;
    outbox.hold();
    if (turns && [...calls.pending.values()].some(({ item }) => item.sent)) retryTimer = after(50, () => leave(turns - 1));
    else replace({ code: 1012, reason: "goaway" }, false, Date.now() - openedAt > 1000); // a hub that sends it at once gets no loop
  };

  /** Replaces the open connection by a new one at once. */
  const replace = (close: Close, always?: boolean, now = true) => {
    void core.connection!.close(1000, "");
    lost(close, now, always);
  };

  /** Handles the end of a connection or a failed attempt. `now`: without a wait. `always`: without asking whether to reconnect. */
  const lost = (close: Close, now?: boolean, always?: boolean) => {
    if (isClosed()) return;
    cancel(retryTimer);
    const wasOpen = isOpen();
    if (wasOpen) {
      receiver.lost();
      reconnect.lasted(Date.now() - openedAt);
      topics.reset();
    } else if (core.connection) {
      reconnect.explain(close);
    }
    core.connection = undefined;
    const previous = client.state;
    client.state = "reconnecting";
    const { code, reason, error } = close;
    calls.lost(() => new HubError("disconnected", `the connection was lost: ${code} ${reason}`.trim(), { cause: error }));
    if (!always && !reconnect.allows(close, wasOpen)) finish(close, previous);
    if (isClosed()) return;
    const retryIn = now ? 0 : reconnect.wait();
    retryTimer = setTimeout(connect, retryIn);
    notify(previous, { ...close, retryIn });
  };

  /** Ends the client. */
  const finish = (close: Close, previous = client.state) => {
    if (isClosed()) return;
    client.state = "closed";
    core.ended = close;
    for (const stop of stopWatching) stop();
    cancel(retryTimer);
    core.connection = undefined;
    core.giveUp(newClosedError());
    topics.close(core.endedByCaller ? undefined : newClosedError());
    calls.lost(newClosedError, true);
    const unsent = outbox.clear();
    if (unsent) listeners.report(new HubError("closed", `${unsent} messages were not sent`));
    notify(previous, close);
  };

  const close = async (code = 1000, reason = ""): Promise<void> => {
    if (code !== 1000 && !(code >= 3000 && code <= 4999)) throw new RangeError(`cannot send close code ${code}`);
    if (!isClosed()) {
      core.endedByCaller = true;
      closing = core.connection?.close(code, reason);
      finish({ code, reason });
    }
    await closing;
  };

  const begin = () => {
    if (isClosed()) return;
    const { signal } = options;
    const abort = () => void close();
    if (signal?.aborted) {
      abort();
      return;
    }
    const changed = () => {
      if (isOpen()) core.connection!.probe();
      else if (retryTimer) connect();
    };
    stopWatching = [onAbort(signal, abort), watchNetwork(changed)];
    connect();
  };
  // Callbacks may use the variable that the caller assigns the client to.
  queueMicrotask(begin);

  return {
    close,
    reconnect() {
      core.checkNotClosed();
      if (isOpen()) {
        replace({ code: 1000, reason: "reconnect" }, true);
      } else if (retryTimer) {
        connect();
      }
    },
  };
}
