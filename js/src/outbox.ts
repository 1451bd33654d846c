import { encodeUTF8 } from "./bytes.js";
import { createPacing } from "./pacing.js";
import { after, cancel } from "./timers.js";

export type Frame = string | Uint8Array;

/** A frame that waits for a connection or for its turn. */
export interface Outgoing {
  frame: Frame;
  /** The frame's size in bytes, sealing included. */
  size: number;
  /** True after the frame was sent, even if it may not have arrived. */
  sent?: boolean;
  /** True if something waits for the reply. */
  awaited?: boolean;
}

/** The largest header of a WebSocket frame. The hub counts it. */
const headerSize = 14;

export const byteLength = (frame: Frame): number =>
  typeof frame === "string" ? encodeUTF8(frame).length : frame.length;

/** Sends frames in order and below the hub's rates. */
export function createOutbox(isOpen: () => boolean, write: (frame: Frame) => void) {
  const pacing = createPacing();
  let queue = new Set<Outgoing>();
  let timer: unknown;

  const send = (item: Outgoing) => {
    item.sent = true;
    pacing.spend(item.size + headerSize);
    write(item.frame);
  };

  const flush = () => {
    cancel(timer);
    for (const item of queue) {
      if (!isOpen()) return;
      const wait = pacing.wait();
      if (wait > 0) {
        timer = after(wait, flush);
        return;
      }
      remove(item);
      send(item);
    }
  };

  const remove = (item: Outgoing) => {
    if (queue.delete(item)) outbox.bytes -= item.size;
  };

  const outbox = {
    /** The size of all queued frames. */
    bytes: 0,
    limit: pacing.limit,
    /** Sends a frame before all queued ones, at once. */
    send,
    remove,
    flush,

    add(item: Outgoing) {
      queue.add(item);
      outbox.bytes += item.size;
      flush();
    },

    /** Begins a connection: the frames that `first` adds go before the queued ones. */
    restart(first: () => void) {
      const queued = queue;
      queue = new Set();
      first();
      for (const item of queued) queue.add(item);
      flush();
    },

    /** Discards the queue. Returns the number of frames whose loss no call reports. */
    clear(): number {
      cancel(timer);
      const lost = [...queue].filter(({ awaited }) => !awaited).length;
      queue.clear();
      return lost;
    },
  };
  return outbox;
}

export type Outbox = ReturnType<typeof createOutbox>;
