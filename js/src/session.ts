import { backoff } from "./backoff.js";
import { encodeUTF8, toBase64 } from "./bytes.js";
import { check, checkName, checkOptions } from "./check.js";
import { createCalls } from "./calls.js";
import { reconnectCodes } from "./close-codes.js";
import { type Close, type Connection, openConnection } from "./connection.js";
import type { HubClient } from "./client.js";
import { HubError } from "./errors.js";
import { createListeners } from "./listeners.js";
import type { Message, MessageFields, Payload } from "./message.js";
import { watchNetwork } from "./network.js";
import { type Gap, Notice, type Resumed } from "./notices.js";
import type { Options, PublishOptions, Seal, State } from "./options.js";
import { byteLength, createOutbox, type Outgoing } from "./outbox.js";
import { after, cancel } from "./timers.js";
import { createTopics, topicTypes } from "./topics.js";

/** The largest number of bytes that sealing adds to a message. */
const maxOverhead = 60;

type Writable<T> = { -readonly [K in keyof T]: T[K] };

const noop = () => {};

const base64url = (text: string) =>
  toBase64(encodeUTF8(text)).replace(/[+/=]/g, (char) => ({ "+": "-", "/": "_" })[char] ?? "");

const hint =
  "handshake failed: origin or token refused, CSP, TLS, or server away; see the server's log and the browser's console";

/** Reports whether an error is a NoTokenError. */
const isNoToken = (error: any) => error?.code === "no_token";

/** Returns the HTTP status of a refused handshake; NaN if the platform does not tell. */
const statusOf = (error: unknown): number => Number(/response: (\d+)/.exec(`${error}`)?.[1]);

/** Turns an error into a rejection. */
const attempt = (task: () => Promise<void>): Promise<void> => {
  try {
    return task();
  } catch (error) {
    return Promise.reject(error);
  }
};

/** Everything behind a client: its connections, one after another, its calls and its topics. */
export function createSession(url: string, given: Options | undefined, client: Writable<HubClient>): void {
  const options = checkOptions(given);
  const { codec, getToken, signal } = options;
  const listeners = createListeners(client, options);
  const { run, emit, report } = listeners;

  let connection: Connection | undefined; // the current one, from its handshake to its end
  let sealer: Seal | undefined = options.security;
  let giveUp: (error: unknown) => void = noop; // ends the latest attempt to connect
  let retryTimer: unknown; // set while the client waits for the next attempt
  let failures = 0; // consecutive failures, which determine the backoff
  let openedAt = 0;
  let renew = false; // the hub refused the last token, or may have
  let ended: Close; // why the client is closed
  let endedByCaller = false;
  let closing: Promise<void> | undefined; // resolves when the last connection has ended
  let missed: { from: number; lastTimestampNs: bigint } | undefined; // of a lost connection, until onResumed is called
  let lastTimestampNs = BigInt(0);

  const isOpen = () => client.state === "open";
  const isClosed = () => client.state === "closed";
  const newClosedError = () => {
    const { code, reason, error } = ended;
    return new HubError("closed", `the client is closed: ${code} ${reason}`, { cause: error ?? ended });
  };
  const checkNotClosed = () => {
    if (isClosed()) throw newClosedError();
  };

  // Sending

  const outbox = createOutbox(isOpen, (frame) => connection!.send(frame));

  const measure = (fields: MessageFields): Outgoing => {
    const frame = codec.encode(fields);
    return { frame, size: byteLength(frame) + (getToken ? maxOverhead : (sealer?.overhead ?? 0)) };
  };

  /** Encodes a message. Throws if it is above the hub's limit: the hub would close the connection, and the client with it. */
  const encode = (fields: MessageFields): Outgoing => {
    const item = measure(fields);
    const { maxMessageSize = client.limits ? Infinity : 524_288 } = options;
    const limit = Math.min(maxMessageSize, client.limits?.maxMessageSize || Infinity);
    if (item.size > limit) throw new HubError("too_large", `the message has ${item.size} bytes; the limit is ${limit}`);
    return item;
  };

  /** Sends a message, or queues it until the connection is open and the hub's rates allow it. */
  const transmit = (item: Outgoing) => {
    const waiting = outbox.bytes + (isOpen() ? connection!.buffered() : 0);
    if (waiting + item.size > options.maxQueuedBytes) {
      throw new HubError("overflow", `${waiting} bytes are waiting to be sent`);
    }
    outbox.add(item);
  };

  const calls = createCalls({
    outbox,
    options,
    encode,
    measure,
    transmit,
    checkNotClosed,
    timedOut: () => connection?.heartbeat.probe(),
    isOwnEnd: () => endedByCaller,
  });
  const { request, call } = calls;

  const topics = createTopics({
    codec,
    listeners,
    isOpen,
    encode,
    request,
    leave: (fields, given, acked) => call(fields, check(given), acked, true),
    changed: () => notifyResumed(),
    closedError: () => (isClosed() ? newClosedError() : undefined),
  });

  // Connecting

  const abort = () => void close();

  /** Gets a token and opens a connection, both within handshakeTimeout. */
  const dial = async () => {
    if (isClosed()) return;
    cancel(retryTimer);
    retryTimer = undefined;
    const { WebSocket, handshakeTimeout } = options;
    const controller = new AbortController();
    let reject: (error: unknown) => void;
    const expired = new Promise<never>((_, no) => (reject = no));
    expired.catch(noop);
    giveUp = (error) => {
      cancel(timer);
      controller.abort(error);
      reject(error);
      connection?.fail(1006, error);
    };
    const timer = after(handshakeTimeout, () =>
      giveUp(new HubError("timeout", `not connected within ${handshakeTimeout} ms`)),
    );

    let { token } = options;
    sealer = options.security;
    try {
      if (getToken) {
        const result = await Promise.race([getToken({ signal: controller.signal, renew }), expired]);
        if (typeof result === "object" && result) {
          token = result.token;
          sealer = result.security ?? sealer;
        } else {
          token = result;
        }
      }
    } catch (error) {
      cancel(timer);
      lost({ code: isNoToken(error) ? 3000 : 1006, reason: "no credentials", error });
      return;
    }
    if (isClosed()) return;

    const protocols = [codec.name];
    if (token) protocols.push(`bearer.${base64url(token)}`);
    try {
      connection = openConnection(new WebSocket(url, protocols), codec, sealer, {
        opened() {
          cancel(timer);
          opened();
        },
        message: received,
        ended(close) {
          cancel(timer);
          lost(close);
        },
        ping: () => request({ type: "hub:ping" }, noop, noop, outbox.send),
      });
    } catch (error) {
      // The platform rejected the URL. It would reject it again, so there is no retry.
      cancel(timer);
      finish({ code: 1006, reason: (error as Error).message, error });
    }
  };

  /** Requests the topics before it sends the queued messages, which may depend on them. */
  const opened = () => {
    const previous = client.state;
    client.state = "open";
    openedAt = Date.now();
    renew = false;
    request({ type: "hub:hello" }, welcomed, noop, outbox.send);
    outbox.restart(topics.restore);
    if (!isOpen()) return;
    notifyState(previous);
    notifyResumed();
  };

  /** Takes the hub's reply to hub:hello. Older hubs do not answer. */
  const welcomed = (message: Message) => {
    const { client_id: clientId = "", user = "", limits = {}, heartbeat, features = [] } = message.json() ?? {};
    client.id = clientId;
    client.user = user;
    const all: { [name: string]: number } = {};
    for (const name of Object.keys(limits)) {
      all[name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())] = limits[name];
    }
    outbox.limit((client.limits = all));
    if (features.includes("ping")) connection!.heartbeat.start(options.heartbeat ?? heartbeat ?? 15_000);
  };

  const reconnects = ({ code, reason, error }: Close, wasOpen: boolean): boolean => {
    let decision: unknown;
    run(() => (decision = options.shouldReconnect?.({ code, reason })), undefined);
    if (typeof decision === "boolean") return decision;
    if (isNoToken(error)) return false;
    const status = statusOf(error);
    if (code === 3000 || status === 401) {
      // A token that was renewed and is refused in the handshake again is the last one.
      const again = getToken !== undefined && (wasOpen || !renew);
      renew = true;
      return again;
    }
    if (status >= 400 && status < 500) return [408, 409, 429].includes(status);
    return reconnectCodes.includes(code);
  };

  /** Handles the end of a connection or a failed attempt. */
  const lost = (close: Close, now?: boolean) => {
    if (isClosed()) return;
    const previous = client.state;
    const wasOpen = previous === "open";
    if (wasOpen) {
      missed ??= { from: connection!.received, lastTimestampNs };
      if (Date.now() - openedAt >= options.backoff.resetAfter) failures = 0;
      topics.reset();
    } else if (connection && !(close.error as HubError | undefined)?.code && !statusOf(close.error)) {
      // Browsers do not tell why a handshake failed. A refused token is one of the possible causes.
      renew = true;
      close.error ??= new HubError("unreachable", hint);
    }
    connection = undefined;
    client.state = "reconnecting";
    const { code, reason, error } = close;
    calls.lost(() => new HubError("disconnected", `the connection was lost: ${code} ${reason}`, { cause: error }));
    if (!now && !reconnects(close, wasOpen)) finish(close, previous);
    if (isClosed()) return;
    const retryIn = now ? 0 : backoff(failures++, options.backoff.base, options.backoff.max);
    retryTimer = setTimeout(dial, retryIn);
    notifyState(previous, { ...close, retryIn });
  };

  /** Ends the client. */
  const finish = (close: Close, previous = client.state) => {
    if (isClosed()) return;
    client.state = "closed";
    ended = close;
    signal?.removeEventListener("abort", abort);
    unwatch();
    cancel(retryTimer);
    connection = undefined;
    giveUp(newClosedError());
    topics.close(endedByCaller ? undefined : newClosedError());
    calls.end(newClosedError);
    const unsent = outbox.clear();
    if (unsent) report(new HubError("closed", `${unsent} messages were not sent`));
    notifyState(previous, close);
  };

  const close = async (code = 1000, reason = ""): Promise<void> => {
    if (code !== 1000 && !(code >= 3000 && code <= 4999)) throw new RangeError(`cannot send close code ${code}`);
    if (!isClosed()) {
      endedByCaller = true;
      closing = connection?.close(code, reason);
      finish({ code, reason });
    }
    await closing;
  };

  const notifyState = (previous: State, close?: Partial<Close> & { retryIn?: number }) => {
    emit("statechange", { state: client.state, previous, ...close });
  };

  /** Tells when all topics are restored after a lost connection. */
  const notifyResumed = () => {
    if (!isOpen() || !missed || !topics.restored()) return;
    const fields = { ...missed, to: Date.now(), channels: topics.names("channel"), rooms: topics.names("room") };
    missed = undefined;
    emit("resumed", new Notice(fields) as Notice & Resumed);
  };

  // Receiving

  const received = (message: Message) => {
    const { type, id, timestampNs } = message;
    if (timestampNs > 0) lastTimestampNs = timestampNs;
    if (type === "ack") {
      calls.take(id)?.ack(message);
    } else if (type === "error") {
      const { code, message: text } = codec.error(message);
      const error = new HubError(code, text, { target: message.channel });
      // A call that timed out or was aborted has no reply handler: it rejected with an unknown outcome.
      if (id) calls.take(id)?.error(error);
      else report(error);
    } else if (type === "gap") {
      const gap = new Notice(codec.gap(message)) as Notice & Gap;
      if (!emit("gap", gap)) report(new HubError("gap", `${gap.count} messages were dropped`, { cause: gap }));
    } else if (!topics.deliver(message)) {
      emit("message", message);
    }
  };

  let unwatch = noop;
  // Callbacks may use the variable that the caller assigns the client to.
  queueMicrotask(() => {
    if (isClosed()) return;
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) {
      abort();
      return;
    }
    unwatch = watchNetwork(() => {
      if (isOpen()) connection!.heartbeat.probe();
      else if (retryTimer) void dial();
    });
    void dial();
  });

  const publisher =
    (type: string) =>
    (channel: string | undefined, data?: Payload, given?: PublishOptions): Promise<void> =>
      attempt(() => {
        const { exceptSelf, ack = true, ...others } = check(given);
        if (type !== "broadcast") checkName(channel!);
        const fields = { type, channel, data, exceptSelf };
        if (ack) return call(fields, others);
        const item = encode(fields);
        try {
          checkNotClosed();
          transmit(item);
        } catch (error) {
          report(error as HubError);
        }
        return Promise.resolve();
      });
  const broadcast = publisher("broadcast");

  const { subscribe, unsubscribe } = topics;
  const methods: Partial<HubClient> = {
    state: "connecting",
    id: "",
    user: "",
    limits: undefined,
    on: listeners.on,
    off: listeners.off,
    close,
    subscribe: (channel, ...others) => subscribe("channel", channel, ...others),
    joinRoom: (room, ...others) => subscribe("room", room, ...others),
    unsubscribe: (channel, given) => attempt(() => unsubscribe("channel", channel, given)),
    leaveRoom: (room, given) => attempt(() => unsubscribe("room", room, given)),
    publish: publisher("publish"),
    publishRoom: publisher("publish_room"),
    broadcast: (data, given) => broadcast(undefined, data, given),

    send(type, data, given) {
      if (typeof type !== "string") throw new TypeError("a message type must be a string");
      if (topicTypes.includes(type)) throw new TypeError(`use the client's method for ${type}`);
      const { channel, volatile } = check(given);
      checkNotClosed();
      const item = encode({ type, channel, data });
      if (volatile && !isOpen()) return false;
      transmit(item);
      return true;
    },

    reconnect() {
      checkNotClosed();
      if (isOpen()) {
        void connection!.close(1000, "");
        lost({ code: 1000, reason: "reconnect" }, true);
      } else if (retryTimer) {
        void dial();
      }
    },
  };
  Object.assign(client, methods);
}
