import { encodeUTF8 } from "./bytes.js";
import type { Core } from "./core.js";
import { HubError } from "./errors.js";
import type { MessageFields } from "./message.js";
import type { Limits } from "./options.js";
import { createPacing, safeLimits } from "./pacing.js";
import { after, cancel } from "./timers.js";

export type Frame = string | Uint8Array;

/** A frame that waits for a connection or for its turn. */
export interface Outgoing {
  frame: Frame;
  /** The frame's size in bytes, sealing included. */
  size: number;
  /** True after the frame was sent, even if it may not have arrived. */
  sent?: boolean;
}

/** The largest header of a WebSocket frame. The hub counts it. */
const headerSize = 14;

/** The largest number of bytes that sealing adds to a message. */
const maxOverhead = 60;

/** Encodes messages, and sends them in order and below the hub's rates. */
export function createOutbox(core: Core) {
  const { client, options } = core;
  const pacing = createPacing();
  let queue = new Set<Outgoing>();
  let held: Set<Outgoing> | undefined; // waits for `release`
  let queuedBytes = 0;
  let timer: unknown;

  /** Encodes a message of any size. */
  const measure = (fields: MessageFields): Outgoing => {
    const frame = options.codec.encode(fields);
    const length = typeof frame === "string" ? encodeUTF8(frame).length : frame.length;
    return { frame, size: length + (options.getToken ? maxOverhead : (options.security?.overhead ?? 0)) };
  };

  /** Sends a frame before all queued ones, at once. */
  const send = (item: Outgoing) => {
    item.sent = true;
    pacing.spend(item.size + headerSize);
    core.connection!.send(item.frame);
  };

  const flush = () => {
    cancel(timer);
    for (const item of queue) {
      if (!core.isOpen()) return;
      const wait = pacing.wait();
      if (wait > 0) {
        timer = after(wait, flush);
        return;
      }
      remove(item);
      send(item);
    }
  };

  const add = (item: Outgoing) => {
    queue.add(item);
    queuedBytes += item.size;
    flush();
  };

  const remove = (item: Outgoing) => {
    if (queue.delete(item) || held?.delete(item)) queuedBytes -= item.size;
  };

  /** Sends a frame of the application, or queues it. */
  const enqueue = (item: Outgoing) => {
    if (!held) return add(item);
    held.add(item);
    queuedBytes += item.size;
  };

  /** Makes all frames that are not sent yet wait for `release`. */
  const hold = () => {
    held = new Set([...queue, ...(held ?? [])]);
    queue = new Set();
  };

  /** Sends the frames that were held. */
  const release = () => {
    for (const item of held ?? []) queue.add(item);
    held = undefined;
    flush();
  };

  return {
    measure,
    send,
    add,
    enqueue,
    hold,
    remove,
    release,

    /** Encodes a message. Throws if it is above the hub's limit: the hub would close the connection, and the client with it. */
    encode(fields: MessageFields): Outgoing {
      const item = measure(fields);
      const { maxMessageSize = client.limits ? Infinity : 524_288 } = options;
      const limit = Math.min(maxMessageSize, client.limits?.maxMessageSize || Infinity);
      if (item.size > limit) throw new HubError("too_large", `the message has ${item.size} bytes; the limit is ${limit}`);
      return item;
    },

    /** Sends a message, or queues it until the connection is open and the hub's rates allow it. Throws if too much is queued. */
    transmit(item: Outgoing) {
      const waiting = queuedBytes + (core.isOpen() ? core.connection!.buffered() : 0);
      if (waiting + item.size > options.maxQueuedBytes) {
        throw new HubError("overflow", `${waiting} bytes are waiting to be sent`);
      }
      enqueue(item);
    },

    /**
     * Begins a connection whose limits are not known yet. The frames that `first` adds go before the queued ones. If the
     * hub has histories, those of the application wait until `release` is called: a publication with a key can be sent
     * again only if it is known for which user it was sent.
     */
    restart(first: () => void) {
      hold();
      pacing.limit(safeLimits);
      first();
      if (!core.history || !core.features.includes("history")) release();
    },

    /** Takes the limits of the hub. */
    limit(limits: Limits) {
      pacing.limit(limits);
      flush();
    },

    /** Discards the queue. Returns the number of its frames. */
    clear(): number {
      cancel(timer);
      const size = queue.size + (held?.size ?? 0);
      queue.clear();
      held = undefined;
      return size;
    },
  };
}

export type Outbox = ReturnType<typeof createOutbox>;
