import { cutUTF8 } from "./bytes.js";
import type { Codec } from "./codec.js";
import { HubError } from "./errors.js";
import { createHeartbeat } from "./heartbeat.js";
import type { Message } from "./message.js";
import type { Seal } from "./options.js";
import type { Frame } from "./outbox.js";
import { cancel } from "./timers.js";

/** How long to wait for the hub's Close frame before terminating the socket, in milliseconds. */
const closeTimeout = 1000;

export interface Close {
  code: number;
  reason: string;
  error?: unknown;
}

interface Events {
  opened(): void;
  message(message: Message): void;
  /** Called at most once, after the last message, and not after a call of close. */
  ended(close: Close): void;
  /** Sends a ping. */
  ping(): void;
}

export type Connection = ReturnType<typeof openConnection>;

/**
 * Opens one WebSocket and serves it to its end. It delivers messages and sends
 * frames in order, although sealing and opening are asynchronous.
 */
export function openConnection(socket: any, codec: Codec, sealer: Seal | undefined, on: Events) {
  let finished = false;
  let failure: unknown; // the error of the socket's error event
  const closed = new Promise((resolve) => socket.addEventListener("close", resolve));

  const finish = () => {
    finished = true;
    heartbeat.stop();
  };

  const end = (close: Close): boolean => {
    if (finished) return false;
    finish();
    on.ended(close);
    return true;
  };

  const closeSocket = async (code: number, reason: string) => {
    let timer;
    const timedOut = new Promise((resolve) => (timer = setTimeout(resolve, closeTimeout)));
    socket.close(code, cutUTF8(reason, 123));
    await Promise.race([closed, timedOut]);
    cancel(timer);
    socket.terminate?.(); // browsers have no terminate and use a timeout of their own
  };

  /**
   * Ends the connection because of an error or a timeout. Browsers do not let
   * scripts send codes below 3000, so the hub receives 4007 for 1007.
   */
  const fail = (code: number, error: unknown) => {
    const reason = (error as Error).message;
    if (end({ code, reason, error })) void closeSocket(code < 3000 ? code + 3000 : code, reason);
  };

  const heartbeat = createHeartbeat(
    () => on.ping(),
    (ms) => fail(3008, new HubError("timeout", `received nothing for ${ms} ms after a ping`)),
  );

  const heard = () => {
    connection.received = Date.now();
    heartbeat.heard();
  };

  const deliver = (frame: Frame) => {
    if (finished) return;
    try {
      if ((typeof frame === "string") !== codec.text) {
        const want = codec.text ? "text; does the hub seal messages?" : "binary";
        fail(1003, new HubError("malformed", `the hub's frame is not ${want}`));
      } else {
        on.message(codec.decode(frame));
      }
    } catch (error) {
      fail(1007, error);
    }
  };

  const pipe = sealer?.pipe({ send: (frame) => socket.send(frame), deliver, fail, text: codec.text });

  const connection = {
    /** When the last frame arrived or the connection opened, in Unix milliseconds; 0 before that. */
    received: 0,
    fail,
    heartbeat,

    /** Returns the number of bytes that were passed to send but not written to the network yet. */
    buffered: (): number => (pipe?.waiting ?? 0) + socket.bufferedAmount,

    send: (frame: Frame) => (pipe ?? socket).send(frame),

    /**
     * Closes the connection after sending the frames passed to send before. It calls
     * no event. Resolves when the socket is closed or was terminated.
     */
    async close(code: number, reason: string) {
      finish();
      await pipe?.sent;
      await closeSocket(code, reason);
    },
  };

  socket.binaryType = "arraybuffer";
  socket.addEventListener("open", () => {
    if (finished) return;
    const { protocol } = socket;
    if (protocol !== codec.name && (protocol || codec.name !== "json")) {
      fail(1002, new HubError("malformed", `the server selected subprotocol "${protocol}", not "${codec.name}"`));
      return;
    }
    heard();
    on.opened();
  });
  socket.addEventListener("message", ({ data }: { data: string | ArrayBuffer }) => {
    if (finished) return;
    heard();
    (pipe ? pipe.receive : deliver)(typeof data === "string" ? data : new Uint8Array(data));
  });
  socket.addEventListener("error", ({ error, message }: { error?: unknown; message?: string }) => {
    failure = error ?? (message ? new Error(message) : undefined);
    // Some platforms emit no close event for a connection that never opened.
    if (!connection.received) end({ code: 1006, reason: "", error: failure });
  });
  socket.addEventListener("close", ({ code, reason }: Close) => {
    const task = () => end({ code, reason, error: failure });
    if (pipe) pipe.inOrder(task);
    else task();
  });
  // Sockets of the ws package report pings, which prove that the connection is alive.
  socket.on?.("ping", heard);
  return connection;
}
